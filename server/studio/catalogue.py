"""What a show offers to who asks for pictures, and as it is answered."""

from __future__ import annotations

from typing import Any

from generator.jobs.cost import OfferedEngine, tariff_of
from generator.jobs.request import Catalogue
from generator.sheet.plan import Plan
from server.config.show import Show


def catalogue_of(show: Show, plan: Plan | None = None) -> Catalogue:
    """What a show offers.

    Args:
        show: the show.
        plan: its actions, under the ids that what is drawn gives them; None for those of a show
            of which nothing is drawn.
    """
    settings = show.settings
    actions = (show.plan({}) if plan is None else plan).actions
    return Catalogue(
        programs=show.programs,
        styles=settings.styles,
        actions={action.action_id: action for action in actions},
        base_images=show.base_images,
        engines=tuple(
            OfferedEngine(
                name=section.name,
                kind=section.kind,
                tariff=tariff_of(section),
                local=section.local,
                live=section.plays_live,
            )
            for section in settings.engines
        ),
        currency=settings.studio.currency,
    )


def programs_document(catalogue: Catalogue) -> dict[str, Any]:
    """The answer to `GET /api/programs`: how a picture may be drawn."""
    return {
        "programs": [
            {
                "name": name,
                "kind": program.kind.value,
                "image_to_image": program.image_to_image,
                "model": program.model,
                "steps": program.steps,
                "guidance_scale": program.guidance_scale,
                "width": program.width,
                "height": program.height,
                "suffix": program.suffix,
                "negative_prompt": program.negative_prompt,
                "strength": program.strength if program.image_to_image else None,
                "loras": [lora.model_dump() for lora in program.loras],
                "fast": program.fast is not None,
                "fast_steps": program.fast.steps if program.fast is not None else None,
            }
            for name, program in sorted(catalogue.programs.items())
        ]
    }


def styles_document(catalogue: Catalogue) -> dict[str, Any]:
    """The answer to `GET /api/styles`: what may be laid over a prompt."""
    return {
        "styles": [
            {"name": name, **style.model_dump(mode="json")}
            for name, style in catalogue.styles.items()
        ]
    }


def engines_document(catalogue: Catalogue) -> dict[str, Any]:
    """The answer to `GET /api/engines`: what draws, and what it costs; no address, no secret."""
    return {
        "engines": [
            {
                "name": engine.name,
                "kind": engine.kind,
                "local": engine.local,
                "live": engine.live,
                "an_hour": engine.tariff.an_hour,
                "a_picture": engine.tariff.a_picture,
            }
            for engine in catalogue.engines
        ],
        "currency": catalogue.currency,
    }
