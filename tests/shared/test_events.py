"""The wire format of events: read back as written, also by the version before and after."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    decode,
    encode,
    event_id,
    format_rfc3339,
    parse_rfc3339,
)
from sematext_agent.shared.subjects import bucket_key, clean_token, subject_of


def event(body: Body, origin: str = "web-01") -> Event:
    return Event(id="1", time=format_rfc3339(0), origin=origin, agent="1", body=body)


SUBJECTS: dict[str, Body] = {
    "events.docker.web-01.container.start": DockerEvent(
        type="container", action="start", actor_id="a"
    ),
    "events.docker.web-01.container.exec_start": DockerEvent(
        type="container", action="exec_start: sh -c 'a > b'", actor_id="a"
    ),
    "events.docker.web-01.image.pull": DockerEvent(type="image", action="pull", actor_id="r/a:b"),
    "events.kubernetes.web-01.Pod.BackOff": KubernetesEvent(
        uid="u", resource_version="1", kind="Pod", reason="BackOff"
    ),
    "events.host.web-01.process.oom_killed": OutOfMemory(process="a) b", pid=1, memory=2),
    "events.host.web-01.package.installed": PackageChange(
        change="installed", manager="deb", name="curl", version="1:2"
    ),
    "events.lifecycle.web-01.agent.started": AgentLifecycle(state="started", run="r"),
    "events.docker.web-01.gap.overflow": Gap(
        source="docker", reason="overflow", since=format_rfc3339(0), until=format_rfc3339(1)
    ),
}


@pytest.mark.parametrize(("subject", "body"), SUBJECTS.items(), ids=SUBJECTS.keys())
def test_every_body_has_its_subject_and_is_decoded_as_it_was_encoded(
    subject: str, body: Body
) -> None:
    assert subject_of(event(body)) == subject
    assert decode(encode(event(body))) == event(body)


def test_a_reader_skips_fields_that_a_newer_writer_added() -> None:
    document = msgspec.json.decode(encode(event(OutOfMemory(process="a", pid=1, memory=2))))
    document["added"] = document["body"]["added"] = {"later": 1}
    assert decode(msgspec.json.encode(document)).body == OutOfMemory(process="a", pid=1, memory=2)


@given(st.integers(min_value=0, max_value=4_102_444_800 * 10**9))
def test_a_time_keeps_every_nanosecond(ns: int) -> None:
    assert parse_rfc3339(format_rfc3339(ns)) == ns


def test_a_time_is_written_as_rfc_3339() -> None:
    assert format_rfc3339(1795423877628168185) == "2026-11-23T08:51:17.628168185Z"


@given(st.lists(st.text()), st.lists(st.text()))
def test_two_identities_have_the_same_id_only_when_they_are_equal(
    a: list[str], b: list[str]
) -> None:
    assert (event_id(*a) == event_id(*b)) == (a == b)


@given(st.text())
def test_any_text_makes_one_token_and_one_key(text: str) -> None:
    for part in (clean_token(text), bucket_key(text)):
        assert part
        assert not set(part) & set(" .*>\t\r\n")
        assert part.isascii()


def test_the_origin_cannot_add_a_level_to_the_subject() -> None:
    subject = subject_of(event(AgentLifecycle(state="started", run="r"), origin="a.b>*"))
    assert subject == "events.lifecycle.a_b__.agent.started"
