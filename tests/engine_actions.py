"""Every action that an engine of one machine can produce."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
from pathlib import Path

from private_engine import ImageRegistry, PrivateEngine


def do_everything(engine: PrivateEngine) -> None:
    """Perform every action that an engine of one machine can produce."""
    do_images(engine)
    do_a_container(engine)
    do_ends(engine)
    do_volumes_and_networks(engine)
    do_plugin(engine)
    do_swarm(engine)
    engine.reload()
    client = engine.client
    client.containers.create("box:1", "true")
    client.containers.prune()
    client.images.prune()
    client.api.prune_builds()
    deadline = time.monotonic() + 5
    while not any(b"reload" in line for line in past(engine)) and time.monotonic() < deadline:
        time.sleep(0.05)


def past(engine: PrivateEngine) -> list[bytes]:
    return list(engine.client.api.events(since=0, until=time.time()))


def do_images(engine: PrivateEngine) -> None:
    client = engine.client
    registry = ImageRegistry(engine)
    engine.import_image()
    name = f"{registry.address}/box"
    client.images.get("box:1").tag(name, "1")
    client.images.push(name, tag="1")
    client.images.remove(f"{name}:1")
    client.images.pull(name, tag="1")
    client.images.load(b"".join(client.images.get("box:1").save()))
    file = io.BytesIO(b'FROM box:1\nLABEL built=yes\nRUN ["/bin/true"]\n')
    client.images.build(fileobj=file, tag="built:1", rm=True, network_mode="none")
    client.images.remove("built:1")
    registry.close()


def do_a_container(engine: PrivateEngine) -> None:
    client, api = engine.client, engine.client.api
    labels = {"app": "web", "exitCode": "spoofed", "name": "spoofed"}
    container = client.containers.run(
        "box:1",
        ["sleep", "1000"],
        name="everything",
        labels=labels,
        network_mode="none",
        detach=True,
        tty=True,
        stdin_open=True,
    )
    container.kill("HUP")
    container.pause()
    container.unpause()
    container.exec_run(["echo", "hello: world", "--password", "S3cret"])
    container.top()
    tar, _ = container.get_archive("/bin/sh")
    file = b"".join(tar)
    container.put_archive("/tmp", file)
    api.post(f"{api.base_url}/v1.20/containers/{container.id}/copy", json={"Resource": "/bin"})
    for _ in container.export():
        pass
    container.commit("committed", "1")
    container.rename("renamed")
    container.update(mem_limit="64m", memswap_limit="128m")
    container.resize(40, 100)
    with client.api.attach_socket(container.id, {"stdin": 1, "stdout": 1, "stream": 1}) as wire:
        wire._sock.sendall(b"\x10\x11")  # ctrl-p ctrl-q
        wire._sock.settimeout(5)
        while wire._sock.recv(100):
            pass
    container.restart(timeout=1)
    container.kill()
    container.wait()
    container.start()
    container.stop(timeout=0)
    container.remove()


def do_ends(engine: PrivateEngine) -> None:
    client = engine.client
    run = client.containers.run
    greedy = run("box:1", ["tail", "/dev/zero"], mem_limit="16m", detach=True, network_mode="none")
    greedy.wait()
    greedy.remove()
    check = {"test": ["CMD-SHELL", "test -f /tmp/ok"], "interval": 10**9, "retries": 1}
    probed = run(
        "box:1",
        ["sh", "-c", "touch /tmp/ok; sleep 1000"],
        healthcheck=check,
        detach=True,
        network_mode="none",
    )
    deadline = time.monotonic() + 15
    while not any(b"health_status" in line for line in past(engine)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    probed.remove(force=True)


def do_volumes_and_networks(engine: PrivateEngine) -> None:
    client = engine.client
    volume = client.volumes.create("v1")
    client.containers.run(
        "box:1",
        ["true"],
        volumes={"v1": {"bind": "/d", "mode": "ro"}},
        remove=True,
        network_mode="none",
    )
    volume.remove()
    client.volumes.create("v2")
    client.volumes.prune()
    for name in ("n1", "n2"):
        client.networks.create(name)
    client.networks.get("n1").remove()
    client.networks.prune()


def do_plugin(engine: PrivateEngine) -> None:
    """Install a plugin whose process sleeps and whose socket is this test's."""
    api = engine.client.api
    config = {
        "description": "",
        "documentation": "",
        # It ends at a SIGTERM, or the engine would wait 10 seconds before it kills it.
        "entrypoint": ["/bin/sh", "-c", "trap exit TERM; sleep 1000 & wait"],
        "env": [],
        "interface": {"types": [], "socket": "p.sock"},
        "network": {"type": "none"},
        "mounts": [],
        "linux": {"capabilities": []},
        "args": {},
        "workdir": "/",
        "propagatedmount": "",
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        text = json.dumps(config).encode()
        entry = tarfile.TarInfo("config.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        for folder in ("rootfs", "rootfs/bin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in ("sh", "sleep"):
            tar.add("/bin/busybox", f"rootfs/bin/{name}")
    registry = ImageRegistry(engine)
    name = f"{registry.address}/demo:1"
    root = f"{api.base_url}/v1.41/plugins"
    tar_type = {"Content-Type": "application/x-tar"}
    api.post(f"{root}/create", params={"name": name}, data=data.getvalue(), headers=tar_type)
    plugin = api.get(f"{root}/{name}/json").json()["Id"]
    serving = threading.Thread(target=serve_plugin, args=(plugin,), daemon=True)
    serving.start()
    enabled = api.post(f"{root}/{name}/enable", params={"timeout": 10})
    assert enabled.status_code == 200, enabled.text
    serving.join()
    assert api.post(f"{root}/{name}/disable", params={"force": 1}).status_code == 200
    assert "error" not in api.post(f"{root}/{name}/push").text
    api.delete(f"{root}/{name}", params={"force": 1})
    rights = api.get(f"{root}/privileges", params={"remote": name}).json()
    pulled = api.post(f"{root}/pull", params={"remote": name, "name": name}, json=rights)
    assert "error" not in pulled.text
    api.delete(f"{root}/{name}", params={"force": 1})
    registry.close()


def serve_plugin(plugin: str) -> None:
    """Listen on the socket of the plugin, once the engine has made the folder."""
    folder = Path("/run/docker/plugins", plugin)
    deadline = time.monotonic() + 10
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "p.sock"))
        listener.listen()
        listener.settimeout(10)
        listener.accept()[0].close()


def do_swarm(engine: PrivateEngine) -> None:
    client, api = engine.client, engine.client.api
    client.swarm.init("127.0.0.1", listen_addr="127.0.0.1:23771", data_path_addr="127.0.0.1")
    service = client.services.create("box:1", name="s1", command=["sleep", "1000"])
    service.reload()
    service.update(mode={"Replicated": {"Replicas": 0}})
    service.remove()
    network = client.networks.create("overlay", driver="overlay")
    network.remove()
    for kind, create, remove in (
        ("secrets", api.create_secret, api.remove_secret),
        ("configs", api.create_config, api.remove_config),
    ):
        path = f"{api.base_url}/v1.41/{kind}/{create('c', b'x')['ID']}"
        document = api.get(path).json()
        changed = document["Spec"] | {"Labels": {"a": "b"}}
        version = {"version": document["Version"]["Index"]}
        assert api.post(f"{path}/update", params=version, json=changed).status_code == 200
        remove(document["ID"])
    client.swarm.leave(force=True)
