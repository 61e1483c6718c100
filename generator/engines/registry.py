"""The kinds of engines that there are; the one place that lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, SerializeAsAny, ValidationError, create_model
from pydantic_core import InitErrorDetails

from cache.outgoing import redacted
from generator.engines.callback.settings import CallbackSection
from generator.engines.comfyui.settings import ComfyUISection
from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.older_wire.settings import OlderWireSection
from generator.engines.port import Engine
from generator.engines.remote.settings import WorkerSection
from generator.engines.replicate.settings import ReplicateSection
from generator.engines.settings import EngineAccess, EngineSection, LocalSection, RemoteSection
from generator.engines.sketch.settings import SketchSection
from generator.engines.testcard.settings import TestCardSection
from generator.outgoing import client_for_engines

KINDS: dict[str, type[LocalSection | RemoteSection]] = {
    section.model_fields["kind"].default: section
    for section in (
        SketchSection,
        TestCardSection,
        DiffusersSection,
        WorkerSection,
        ComfyUISection,
        OlderWireSection,
        ReplicateSection,
        CallbackSection,
    )
}
"""Their settings, by the word for their kind; the first is what is meant where none is named."""


class UnknownEngine(Exception):
    """An engine was named that is neither set up nor built in."""


def engine_section(value: object) -> LocalSection | RemoteSection:
    """One of `[[engines]]`, by the settings of its kind.

    Raises:
        ValueError: it cannot be used; a `ValidationError` where pydantic says so.
    """
    if isinstance(value, LocalSection | RemoteSection):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of an engine's settings")  # noqa: TRY004 - pydantic's
    kind = value.get("kind", next(iter(KINDS)))
    if not isinstance(kind, str) or kind not in KINDS:
        *others, last = (f"'{known}'" for known in KINDS)
        expected = {"expected": f"{', '.join(others)} or {last}"}
        wrong = InitErrorDetails(type="literal_error", loc=("kind",), input=kind, ctx=expected)
        raise ValidationError.from_exception_data("engines", [wrong])
    foreign = {key: _kinds_with(key) for key in sorted(value.keys() - KINDS[kind].model_fields)}
    known = {key: each for key, each in value.items() if not foreign.get(key)}
    made = KINDS[kind].model_validate(known)
    if foreign.get("url"):
        raise ValueError(f"{made.called}: only these have a url: {', '.join(foreign['url'])}")
    # What has no effect here is looked at all the same: a wrong value is a mistake somewhere.
    elsewhere = {key: KINDS[kinds[0]].model_fields[key] for key, kinds in foreign.items() if kinds}
    if elsewhere:
        fields: dict[str, Any] = {key: (each.annotation, each) for key, each in elsewhere.items()}
        keys = create_model("ForeignKeys", __config__=EngineSection.model_config, **fields)
        keys.model_validate({key: value[key] for key in elsewhere})
    refused = [
        f"{key} (a {kinds[0]}'s)"
        for key, kinds in foreign.items()
        if len(kinds) == 1 and KINDS[kinds[0]].has_effect(key, value[key])
    ]
    if refused:
        raise ValueError(f"{made.called}: a {kind} has no {', '.join(refused)}")
    return made


def _kinds_with(key: str) -> list[str]:
    return [kind for kind, section in KINDS.items() if key in section.model_fields]


AnyEngine = Annotated[SerializeAsAny[LocalSection | RemoteSection], BeforeValidator(engine_section)]
"""A field that holds the settings of any kind of engine."""


def engine_keys() -> set[str]:
    """Every key that one of `[[engines]]` may have."""
    return {key for section in KINDS.values() for key in section.model_fields}


def find_engine(engines: Sequence[AnyEngine], name: str | None) -> AnyEngine:
    """One of `[[engines]]`, one elsewhere by its address, or one of this machine by its kind.

    None is the first set up, else the first kind.

    Raises:
        UnknownEngine: there is none of that name.
    """
    by_name = {section.name: section for section in engines}
    local = [kind for kind, section in KINDS.items() if section.local]
    if name is None:
        name = next(iter([*by_name, *local]))
    if name in by_name:
        return by_name[name]
    if name in local:
        return engine_section({"name": name, "kind": name})
    scheme, colon, _ = name.partition("://")
    shown = redacted(name) if colon else name
    for kind, section in KINDS.items():
        if colon and scheme in section.schemes:
            try:
                return engine_section({"name": kind, "kind": kind, "url": name})
            except ValidationError as error:
                reason = error.errors(include_url=False, include_input=False)[0]["msg"]
                reason = reason.removeprefix("Value error, ")
                raise UnknownEngine(f"the engine at {shown}: {reason}") from None
    known = ", ".join([*by_name, *local, "or the address of a worker"])
    raise UnknownEngine(f"no engine {shown!r}: expected one of {known}")


@asynccontextmanager
async def recording_engines(
    sections: Sequence[AnyEngine],
    cores: int,
    *,
    folder: Path,
    tokens: Mapping[str, SecretStr],
) -> AsyncIterator[list[Engine]]:
    """Engines that draw beside each other, as fast as they can.

    One that draws several sets beside each other is in the list as often.

    Args:
        sections: which.
        cores: how many of this machine's may be drawn on.
        folder: the show's.
        tokens: what engines elsewhere must be brought, by kind.

    Raises:
        BadEngine: one is set up in a way that cannot work.
    """
    engines: list[Engine] = []
    async with AsyncExitStack() as stack:
        for section in sections:
            count = section.beside_each_other(cores)
            if isinstance(section, LocalSection):
                engine = stack.enter_context(section.open(wait=False, processes=count))
            else:
                client = await stack.enter_async_context(client_for_engines())
                token = tokens.get(section.kind)
                engine = section.connect(EngineAccess(client=client, token=token, folder=folder))
            engines += [engine] * count
        yield engines
