"""Images that the collector knows: their tags, which an `untag` or `delete` no longer names."""

from __future__ import annotations

from collections.abc import Mapping

from sematext_agent.docker_collector.message import EngineMessage


class ImageTagCache:
    """The tags of images, by image id."""

    def __init__(self, tags: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.tags: dict[str, tuple[str, ...]] = dict(tags or {})
        # Tags that a list no longer holds, though their `untag` has not been read yet.
        self._vanished: dict[str, tuple[str, ...]] = {}
        # The tags that the last `untag` of an image removed, for the `delete` that follows it.
        self._untagged: dict[str, tuple[str, ...]] = {}

    def replace(self, images: Mapping[str, tuple[str, ...]]) -> None:
        """Replace everything known by a list of all images."""
        listed_tags = {tag for tags in images.values() for tag in tags}
        for image_id, tags in self.tags.items():
            # A tag that another image holds now was moved, which is no `untag`.
            vanished = tuple(tag for tag in tags if tag not in listed_tags)
            if vanished:
                self._vanished[image_id] = (*self._vanished.get(image_id, ()), *vanished)
        self.tags = dict(images)

    def needs_inspection(self, message: EngineMessage) -> bool:
        """Return whether only the engine knows which of the image's tags an `untag` removed."""
        image_id, name = message.object_id, message.attributes.get("name", "")
        return (
            message.verb == "untag"
            and _is_digest(name)
            and image_id not in self._vanished
            and len(self.tags.get(image_id, ())) > 1
        )

    def look_up(
        self, message: EngineMessage, inspected_tags: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        """Return the tags that an `untag` or `delete` removed, after learning from `message`.

        Args:
            message: a message of an image.
            inspected_tags: the tags the image has now, where `needs_inspection` asked for them.
        """
        match message.verb:
            case "tag":
                self._tag(message)
            case "untag":
                return self._untag(message, inspected_tags)
            case "delete":
                return self._delete(message)
        return ()

    def _tag(self, message: EngineMessage) -> None:
        name = message.attributes.get("name", "")
        if not name:
            return
        # A tag belongs to one image at a time.
        for image_id, tags in self.tags.items():
            if name in tags and image_id != message.object_id:
                self.tags[image_id] = tuple(tag for tag in tags if tag != name)
        if name not in (tags := self.tags.get(message.object_id, ())):
            self.tags[message.object_id] = (*tags, name)

    def _untag(
        self, message: EngineMessage, inspected_tags: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        image_id, name = message.object_id, message.attributes.get("name", "")
        tags = self.tags.get(image_id, ())
        if not _is_digest(name):
            removed: tuple[str, ...] = (name,)
        elif not (removed := self._vanished.pop(image_id, ())):
            removed = tuple(tag for tag in tags if tag not in (inspected_tags or ()))
        removed = removed or self._untagged.get(image_id, ())
        # Where several are possible and the engine gave no answer, all are named, none forgotten.
        if inspected_tags is not None or len(removed) < 2:
            self.tags[image_id] = tuple(tag for tag in tags if tag not in removed)
        self._untagged[image_id] = removed
        return removed

    def _delete(self, message: EngineMessage) -> tuple[str, ...]:
        image_id, name = message.object_id, message.attributes.get("name", "")
        untagged = self._untagged.pop(image_id, ())
        tags = self.tags.pop(image_id, ()) or self._vanished.pop(image_id, ()) or untagged
        return tags or (() if _is_digest(name) else (name,))


def _is_digest(name: str) -> bool:
    return name.startswith("sha256:") or not name
