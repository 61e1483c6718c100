"""What may be asked of the Studio, checked, and turned into work (pure).

What was accepted can be drawn without this module: each item of the job carries its whole recipe.
So a sheet, a style or a program that changes meanwhile changes nothing that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
)

from cache.model.images import BadImage, decode_check
from cache.outgoing import has_password
from cache.spelling import nearest
from generator.hook_secrets import WANTED, is_secret
from generator.jobs.cost import OfferedEngine, estimate
from generator.jobs.drawing import NO_ACTION, DrawWork
from generator.jobs.eta import WorkSize
from generator.jobs.fields import BadJobRequest, FieldProblem, read_fields
from generator.jobs.model import MAX_ITEMS, PRIORITIES, USUAL_PRIORITY
from generator.jobs.paces import Paces
from generator.jobs.store import EventType, NewItem, NewJob
from generator.sheet.description import Description, describe
from generator.sheet.estimate import steps_of
from generator.sheet.plan import Action
from generator.sheet.programs import DEFAULT_PROGRAM, Program, Speed
from generator.sheet.recipe import SEED_LIMIT, PipelineKind, Recipe
from generator.styles import Style, matching_style, style_name
from generator.templates import BadTemplate, TooManyPrompts, expand

MAX_PROMPT: Final = 10_000
"""Characters of a prompt."""

MOST_OF_ONE: Final = 64
"""How many pictures of one prompt a request may want."""

USUAL_PICTURES: Final = 1000
"""More pictures than that of one template are drawn only for who says that all are meant."""

MAX_PICTURES: Final = MAX_ITEMS
"""Pictures of one template: more items no job has."""

MAX_METADATA: Final = 16 * 1024
"""Bytes of JSON that whoever asks wants to find again."""

MAX_METADATA_DEPTH: Final = 16
MAX_BASE: Final = 10 * 2**20
"""Bytes of a picture that a recipe brings along."""

MAX_BASE_PIXELS: Final = 40_000_000
MAX_WORK: Final = 64 * 2**20
"""Bytes that the items of one job may take in the database, as each has its whole recipe."""

_AN_ITEM: Final = 2048
"""Bytes of an item beside its texts and its picture, roughly."""

_TAKE: Final = "take:"
"""That Standard Webhooks wants a secret to be of."""

_USUAL_EVENTS: Final[tuple[EventType, ...]] = ("job.completed", "job.failed", "job.cancelled")

Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]


def _hook_address(url: str) -> str:
    expected = "expected an address such as https://bell.example/hook"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(expected) from None
    if not whole or not url.isprintable() or " " in url:
        raise ValueError(expected)
    if has_password(url) or parts.fragment:
        raise ValueError("expected an address without user, password or #, not one with")
    return url


def _hook_secret(secret: SecretStr) -> SecretStr:
    if not is_secret(secret.get_secret_value()):
        raise ValueError(f"{WANTED}, as Standard Webhooks wants")
    return secret


class JobHook(BaseModel):
    """Whom to tell of a job: Standard Webhooks.

    Attributes:
        url: where; whether we may reach it is looked at by who sends.
        secret: that what is sent is signed with; nobody is ever told it.
        events: of what.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, StringConstraints(max_length=2048), AfterValidator(_hook_address)]
    secret: Annotated[
        SecretStr,
        AfterValidator(_hook_secret),
        # It is kept with the request, as it signs what is sent; see `public_request`.
        PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str),
    ]
    events: Annotated[tuple[EventType, ...], Field(min_length=1, max_length=16)] = _USUAL_EVENTS


def _metadata(given: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(given, ensure_ascii=False).encode(errors="replace"))
    if size > MAX_METADATA:
        raise ValueError(f"expected at most {MAX_METADATA} bytes of JSON, found {size}")
    depth = 0
    level: list[Any] = [given]
    while level:
        depth += 1
        if depth > MAX_METADATA_DEPTH:
            raise ValueError(
                f"expected at most {MAX_METADATA_DEPTH} objects within one another, not more"
            )
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return given


class JobRequest(BaseModel):
    """The body of `POST /api/jobs`.

    What is drawn is a `recipe` as it stands, a `prompt` by a `program`, or what a `cue` draws;
    a cue together with a prompt is drawn as the cue would be, had it that prompt.

    Attributes:
        kind: what kind of work it is.
        prompt: what is drawn; with `template`, one with alternatives.
        recipe: everything that determines a picture, in place of prompt and program.
        program: by which a prompt is drawn; the cue's, else P0.
        cue: id of the action of which the takes may become sets.
        style: laid over it; where none is named, one that has a word of the prompt to match.
        n: variations of each prompt.
        seed: of the first variation, the next ones count on; drawn by lot where none is given.
        speed: `fast` for the program's fast variant.
        template: whether the prompt is a template.
        every: of a template, whether more than `USUAL_PICTURES` are meant.
        base: ``take:{id}``, that image-to-image starts from.
        strength: 0 to 1, how far it goes from there.
        mask, edit, enlarge: to come.
        priority: one of `PRIORITIES`.
        hook: who is told of it.
        metadata: whatever whoever asks wants to find again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["draw"] = "draw"
    prompt: Prompt | None = None
    recipe: Recipe | None = None
    program: Name | None = None
    cue: Name | None = None
    style: Name | None = None
    n: Annotated[int, Field(ge=1, le=MOST_OF_ONE)] = 1
    seed: Seed | None = None
    speed: Speed = "full"
    template: bool = False
    every: Annotated[bool, Field(alias="all")] = False
    base: Name | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    mask: Any = None
    edit: Any = None
    enlarge: Any = None
    priority: Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[-1])] = USUAL_PRIORITY
    hook: JobHook | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = Field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """What a show offers to who asks for pictures.

    Attributes:
        programs: by name.
        styles: by name, in the order in which they are offered.
        actions: what the cue sheet draws, by id.
        base_images: encoded base image by program, for those of image-to-image.
        engines: that draw, in order of preference.
        currency: that costs are in.
    """

    programs: Mapping[str, Program]
    styles: Mapping[str, Style] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)
    base_images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    engines: Sequence[OfferedEngine] = ()
    currency: str = "EUR"


@dataclass(frozen=True)
class Drawing:
    """What is drawn `n` times, with a seed each.

    Attributes:
        recipe: all but its seed.
        description: what people are told of it.
        style: name of the style that is laid over it, None for none.
    """

    recipe: Recipe
    description: Description
    style: str | None = None


def accept_request(
    body: object,
    catalogue: Catalogue,
    *,
    owner: str,
    new_seed: Callable[[], int],
    key: str | None = None,
    bases: Mapping[str, bytes] | None = None,
    why_no_hook: Callable[[str], str | None] = lambda _url: None,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> NewJob:
    """Check a request, and make a job of it.

    It decodes a picture that a recipe brings along, and reads templates: some hundreds of
    milliseconds, at the worst.

    Args:
        body: of `POST /api/jobs`: its bytes, or the JSON value that they hold.
        catalogue: what there is to be asked for.
        owner: id of the member who asks.
        new_seed: gives any number, for who names no seed.
        key: the idempotency key.
        bases: pictures by the id of their take, of the member's own; `asked_take` says which one
            is wanted. None where there are no such pictures at all.
        why_no_hook: says why an address may not be told anything; None where it may.
        new_id: gives a new UUID.

    Raises:
        BadJobRequest: with everything that is wrong.
    """
    request, problems = read_fields(JobRequest, body)
    unread = {each.field.partition(".")[0] for each in problems}
    reading = RequestReading(request, catalogue, bases, unread)
    drawings = reading.drawings()
    problems += reading.problems
    if request.hook is not None and (reason := why_no_hook(request.hook.url)) is not None:
        problems.append(FieldProblem("bad_request", "hook.url", reason))
    if problems:
        raise BadJobRequest(problems)
    return new_job(
        drawings,
        action_id=reading.action.action_id if reading.action else NO_ACTION,
        n=request.n,
        seed=_first_seed(request, new_seed),
        job_id=new_id(),
        owner=owner,
        request=_document(request),
        metadata=request.metadata,
        priority=request.priority,
        key=key,
    )


def asked_take(body: object) -> str | None:
    """Id of the take that a request wants to start from; None where it names none."""
    base = body.get("base") if isinstance(body, Mapping) else None
    return _take_of(base) if isinstance(base, str) else None


def public_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A job's request as it may be told: without the secret that its hook is signed with."""
    told = dict(request)
    if isinstance(told.get("hook"), Mapping):
        told["hook"] = {name: each for name, each in told["hook"].items() if name != "secret"}
    return told


def estimate_request(new: NewJob, catalogue: Catalogue, paces: Paces) -> dict[str, Any]:
    """What a job would take that nobody waits in front of: the answer to `POST /api/estimate`.

    Args:
        new: what `accept_request` made of the request; it is not kept.
        catalogue: what there is.
        paces: what was measured.

    Returns:
        ``{"pictures", "seconds", "cost", "currency"}``; null for what is not known.
    """
    sizes = [work_size(item.work) for item in new.items]
    found = estimate(sizes, catalogue.engines, paces.seconds, catalogue.currency)
    return found.document()


def work_size(work: Mapping[str, Any]) -> WorkSize:
    """How large the work of an item is."""
    recipe = {name: each for name, each in work["recipe"].items() if name != "base_image"}
    # What the picture shows takes no time: it is left out, and not read again for each item.
    image = {"base_image": b"-"} if recipe.get("strength") is not None else {}
    read = Recipe.model_validate({**recipe, **image})
    return WorkSize(read.model, read.width, read.height, steps_of(read))


# ---------------------------------------------------------------- what is drawn

_T = TypeVar("_T")


@dataclass
class RequestReading:
    """A request as it is read against what there is.

    Attributes:
        request: what of it could be read.
        catalogue: what there is.
        bases: pictures by the id of their take.
        unread: fields that were wrong as such, so that nothing follows from them.
        problems: what is wrong with it; there are more of them once `drawings` was asked for.
    """

    request: JobRequest
    catalogue: Catalogue
    bases: Mapping[str, bytes] | None = None
    unread: AbstractSet[str] = frozenset()
    _: KW_ONLY
    problems: list[FieldProblem] = field(default_factory=list)

    @property
    def action(self) -> Action | None:
        """What the cue draws, None where none is named."""
        return self.catalogue.actions.get(self.request.cue) if self.request.cue else None

    def drawings(self) -> list[Drawing]:
        """What is to be drawn; of no use where there are problems."""
        self._refuse_what_is_to_come()
        self._look_up("cue", self.request.cue, self.catalogue.actions)
        style = self._style()
        if self.request.recipe is not None:
            found = self._of_recipe(self.request.recipe, style)
        else:
            named = self.request.prompt is not None or self.request.cue is not None
            if not named and not self.unread & {"prompt", "recipe", "cue"}:
                expected = "expected a prompt, a recipe, or a cue that says what is drawn"
                self._wrong("prompt", expected)
            found = self._of_program(style)
        self._fit_into_a_job(found)
        return found

    def _wrong(self, name: str, message: str, code: str = "bad_request") -> None:
        self.problems.append(FieldProblem(code, name, message))

    def _look_up(self, name: str, value: str | None, known: Mapping[str, _T]) -> _T | None:
        """What a field names; None where it names nothing, or nothing that there is."""
        if value is None:
            return None
        if value not in known:
            message = f"there is no {name} {value!r:.80}{nearest(value, known)}"
            self._wrong(name, message, f"unknown_{name}")
            return None
        return known[value]

    def _refuse_what_is_to_come(self) -> None:
        for name in ("mask", "edit", "enlarge"):
            if getattr(self.request, name) is not None:
                self._wrong(name, f"this Studio has no {name} yet", "not_configured")

    def _style(self) -> str | None:
        """What the style that is asked for is really called; None for none."""
        if self.request.style is None:
            return None
        name = style_name(self.request.style, self.catalogue.styles)
        self._look_up("style", name or self.request.style, self.catalogue.styles)
        return name

    def _of_recipe(self, recipe: Recipe, style: str | None) -> list[Drawing]:
        request = self.request
        given = {name: getattr(request, name) for name in ("prompt", "program", "base", "strength")}
        given |= {"template": request.template or None, "speed": request.speed == "fast" or None}
        for name in (name for name, value in given.items() if value is not None):
            self._wrong(name, "a recipe says all of how it is drawn; leave one of the two out")
        self._refuse_all_without_a_template()
        if len(recipe.prompt) + len(recipe.negative_prompt) > MAX_PROMPT:
            self._wrong("recipe.prompt", f"expected at most {MAX_PROMPT:,} characters", "too_large")
        if recipe.base_image is not None:
            self._check_base(recipe.base_image)
        described = self._described(Description(), recipe.prompt, None)
        return [Drawing(self._in_style(recipe, style), described, style)]

    def _check_base(self, image: bytes) -> None:
        if len(image) > MAX_BASE:
            expected = f"expected a picture of at most {MAX_BASE} bytes, found {len(image)}"
            self._wrong("recipe.base_image", expected, "too_large")
            return
        try:
            decode_check(image, coarse=True, most_pixels=MAX_BASE_PIXELS)
        except BadImage as error:
            self._wrong("recipe.base_image", str(error))

    def _of_program(self, style: str | None) -> list[Drawing]:
        request = self.request
        prompts = self._prompts()
        base = self._base()
        name = self._program_name()
        if name is None:
            return []
        program = self._look_up("program", name, self.catalogue.programs)
        if program is None:
            return []
        own = self.catalogue.base_images.get(name)
        from_base = request.base is not None or "base" in self.unread
        if program.image_to_image and not from_base and own is None:
            message = f"the base image of {name} cannot be read: see [programs.{name}] base_image"
            self._wrong("program", message, "not_configured")
        if request.strength is not None and not from_base and not program.image_to_image:
            self._wrong("strength", f"{name} starts from no picture: expected a base with it")
        if request.speed == "fast" and program.fast is None:
            message = (
                f"{name} has no fast variant; [programs.{name}.fast] in show.toml gives it one"
            )
            self._wrong("speed", message)
        if self.problems or self.unread:
            return []
        return [
            self._drawing(name, program, prompt, style=style, base=base, own=own)
            for prompt in prompts
        ]

    def _program_name(self) -> str | None:
        """The program that draws; None where it is that of a cue that there is not."""
        if "program" in self.unread:
            return None
        if self.request.program is not None:
            return self.request.program
        if self.action is not None:
            return self.action.program
        return DEFAULT_PROGRAM if self.request.cue is None and "cue" not in self.unread else None

    def _drawing(
        self,
        name: str,
        program: Program,
        prompt: str | None,
        *,
        style: str | None,
        base: bytes | None,
        own: bytes | None,
    ) -> Drawing:
        request = self.request
        recipe = self._recipe(name, program, prompt, own)
        if base is not None:
            strength = program.strength if recipe.strength is None else recipe.strength
            recipe = recipe.model_copy(
                update={
                    "kind": PipelineKind.IMAGE_TO_IMAGE,
                    "base_image": base,
                    "strength": strength,
                }
            )
        if style is None and prompt is not None:
            # A cue that is drawn as it stands stays so: its take may become its next set.
            style = matching_style(prompt, self.catalogue.styles)
        recipe = self._in_style(recipe, style)
        if request.speed == "fast" and program.fast is not None:
            recipe = program.fast.over(recipe)
        if request.strength is not None:
            recipe = recipe.model_copy(update={"strength": request.strength})
        return Drawing(recipe, self._described(Description(), prompt, name), style)

    def _in_style(self, recipe: Recipe, style: str | None) -> Recipe:
        return recipe if style is None else self.catalogue.styles[style].over(recipe)

    def _recipe(self, name: str, program: Program, prompt: str | None, own: bytes | None) -> Recipe:
        """What a program draws: the cue's own words where `prompt` is None."""
        action = self.action
        same = action is not None and action.program == name
        if action is not None and same and prompt is None:
            return action.recipe
        if prompt is not None and program.prompt is not None:
            # It draws a text of its own in place of a cue's; whoever asks in words wants these.
            program = program.model_copy(update={"prompt": None})
        text, override = prompt or "", None
        if action is not None and prompt is None:
            text, override = action.prompt, action.override
        drawn = program if own is not None or not program.image_to_image else _as_text(program)
        recipe = drawn.recipe(text, override=override, base_image=own)
        if action is not None and same:
            # Where the slider stands at its cue, and the steps that it says.
            update: dict[str, Any] = {"steps": action.recipe.steps}
            if recipe.strength is not None:
                update["strength"] = action.recipe.strength
            recipe = recipe.model_copy(update=update)
        return recipe

    def _described(
        self, known: Description, prompt: str | None, program: str | None
    ) -> Description:
        if self.action is not None:
            known = describe(self.action)
        if prompt is None:
            return known
        update: dict[str, Any] = {
            "prompt": prompt,
            "override_prompt": None,
            "program": program or known.program,
        }
        return known.model_copy(update=update)

    def _prompts(self) -> list[str] | list[None]:
        """What is drawn in words, one of a template; a None where it is the cue's own."""
        request = self.request
        if "template" not in self.unread:
            self._refuse_all_without_a_template()
        if request.prompt is None:
            if request.template and "prompt" not in self.unread:
                self._wrong("template", "expected a prompt with it, such as a {red|blue} door")
            return [None]
        if not request.prompt.strip():
            self._wrong("prompt", "expected words, found nothing")
            return []
        if not request.template:
            return [request.prompt]
        most = (MAX_PICTURES if request.every else USUAL_PICTURES) // request.n
        try:
            prompts = expand(request.prompt, most)
        except BadTemplate as error:
            self._wrong("prompt", str(error))
            return []
        except TooManyPrompts as error:
            self._refuse_as_too_many(error)
            return []
        if any(len(prompt) > MAX_PROMPT for prompt in prompts):
            self._wrong("prompt", f"expected prompts of {MAX_PROMPT:,} characters", "too_large")
        return list(prompts)

    def _refuse_as_too_many(self, error: TooManyPrompts) -> None:
        request = self.request
        pictures = None if error.count is None else error.count * request.n
        many = "more than can be counted" if pictures is None else f"{pictures:,}"
        if pictures is not None and pictures <= MAX_PICTURES and not request.every:
            expected = f'expected "all": true for more than {USUAL_PICTURES:,} pictures'
            self._wrong("all", f"{expected}, found {many}")
        else:
            expected = f"expected at most {MAX_PICTURES:,} pictures of one template"
            self._wrong("prompt", f"{expected}, found {many}", "too_large")

    def _refuse_all_without_a_template(self) -> None:
        if self.request.every and not self.request.template:
            self._wrong("all", "expected a template with it: all that can be made of one")

    def _base(self) -> bytes | None:
        base = self.request.base
        if base is None:
            return None
        take = _take_of(base)
        if take is None and base.startswith("input:"):
            self._wrong("base", "this Studio has no inputs yet", "not_configured")
        elif take is None:
            self._wrong("base", "expected take: and the id of a take")
        elif self.bases is None:
            self._wrong("base", "this Studio starts from no takes yet", "not_configured")
        elif take not in self.bases:
            self._wrong("base", "there is no such take", "unknown_take")
        else:
            return self.bases[take]
        return None

    def _fit_into_a_job(self, drawings: Sequence[Drawing]) -> None:
        size = sum(_size(each.recipe) for each in drawings) * self.request.n
        if size > MAX_WORK:
            mebibytes = MAX_WORK // 2**20
            self._wrong(
                "n", f"expected work of {mebibytes} MiB, found {size // 2**20}", "too_large"
            )


def _as_text(program: Program) -> Program:
    """The same from words alone; a picture to start from is laid under it afterwards."""
    return program.model_copy(update={"kind": PipelineKind.TEXT_TO_IMAGE})


def _size(recipe: Recipe) -> int:
    """Bytes that an item of a recipe takes, roughly; its prompt is told twice."""
    names = [recipe.model, recipe.scheduler or "", *(lora.model for lora in recipe.loras)]
    texts = [recipe.prompt, recipe.prompt, recipe.negative_prompt, *names]
    written = sum(len(text.encode()) + 64 for text in texts)
    return _AN_ITEM + written + len(recipe.base_image or b"") * 4 // 3


def _take_of(base: str) -> str | None:
    kind, found, name = base.partition(_TAKE)
    try:
        return str(uuid.UUID(name)) if found and not kind else None
    except ValueError:
        return None


# ---------------------------------------------------------------- the job of it


def new_job(
    drawings: Sequence[Drawing],
    *,
    action_id: str,
    n: int,
    seed: int,
    job_id: str,
    owner: str,
    request: Mapping[str, Any],
    metadata: Mapping[str, Any],
    priority: int,
    key: str | None,
) -> NewJob:
    """A job that draws each of `drawings` with `n` seeds in a row, the same ones for each.

    So what differs between two prompts of a template is what was written, and not chance.
    """
    items = []
    for drawing in drawings:
        work = DrawWork(
            action_id=action_id, recipe=drawing.recipe, description=drawing.description
        ).document()
        for place in range(n):
            number = (seed + place) % SEED_LIMIT
            items.append(NewItem(number, {**work, "recipe": {**work["recipe"], "seed": number}}))
    return NewJob(
        id=job_id,
        kind="draw",
        owner=owner,
        items=items,
        request=request,
        metadata=metadata,
        priority=priority,
        key=key,
    )


def _first_seed(request: JobRequest, new_seed: Callable[[], int]) -> int:
    if request.seed is not None:
        return request.seed
    if request.recipe is not None and "seed" in request.recipe.model_fields_set:
        return request.recipe.seed
    return new_seed() % SEED_LIMIT


def _document(request: JobRequest) -> dict[str, Any]:
    """The request as it is kept: the same whoever sends it again, whatever its seed was to be.

    A picture that a recipe brought along stands there by its hash: its items have it.
    """
    document = request.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"metadata"}
    )
    document["kind"] = request.kind
    if request.recipe is not None and request.recipe.base_image is not None:
        digest = hashlib.sha256(request.recipe.base_image).hexdigest()
        document["recipe"]["base_image"] = f"sha256:{digest}"
    return document
