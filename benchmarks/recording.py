"""What recording costs: whole sets on disk, previews and all, against diffusers alone.

Both draw the same pictures with the same model in the same process, by turns. The model has
random weights and is small, so that this runs anywhere; one core is left to the previews, as
the host is beside a GPU. A real model's steps are longer, and its previews cost no more.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.lengths import length
from benchmarks.machinery import say
from cache.stores.folder import FolderStore
from generator.engines.diffusers.engine import DiffusersEngine
from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.diffusers.untyped import Pipeline
from generator.sets.recorder import PlannedSet, Recorder
from generator.sheet.description import Description
from generator.sheet.recipe import Recipe

_ROUNDS = length(5, 1)
_STEPS = length(8, 2)
_WIDTH, _HEIGHT = length((512, 320), (64, 64))
_BLOCK_WIDTH = 64


def main() -> None:
    """Print the figures."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }
    try:
        import torch  # noqa: PLC0415 - an extra
    except ImportError:
        say("torch and diffusers are not installed: pip install '.[diffusers]'")
        return
    from tests.generator.engines import tiny_pipelines  # noqa: PLC0415 - an extra

    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_pipelines.save_sd(Path(folder) / "sd", width=_BLOCK_WIDTH)
        tiny = tiny_pipelines.save_tiny_decoder(Path(folder) / "taesd")
        asyncio.run(_compare(model, tiny, Path(folder) / "sets"))


async def _compare(model: Path, tiny: Path, sets: Path) -> None:
    import diffusers  # noqa: PLC0415 - an extra

    recipe = Recipe(
        model=str(model), prompt="boats on the sea", steps=_STEPS, width=_WIDTH, height=_HEIGHT
    )
    bare = diffusers.AutoPipelineForText2Image.from_pretrained(model, local_files_only=True)
    bare.set_progress_bar_config(disable=True)
    engines = {
        "latent-rgb": DiffusersEngine(
            DiffusersSection(name="matrix", device="cpu", previews="latent-rgb")
        ),
        "taesd": DiffusersEngine(
            DiffusersSection(name="taesd", device="cpu", previews="taesd"), tiny_decoder=str(tiny)
        ),
        "vae": DiffusersEngine(DiffusersSection(name="vae", device="cpu", previews="vae")),
    }
    plain: list[float] = []
    plain_cpu: list[float] = []
    cpus: dict[str, list[float]] = {name: [] for name in engines}
    walls: dict[str, list[float]] = {name: [] for name in engines}
    reported: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(_ROUNDS + 1):
        seed = recipe.with_seed(number)
        wall, cpu = _bare(bare, seed)
        if number:  # the first round warms up
            plain.append(wall)
            plain_cpu.append(cpu)
        for name, engine in engines.items():
            wall, cpu, durations = await _recorded(engine, seed, sets / name)
            if number:
                walls[name].append(wall)
                cpus[name].append(cpu)
                reported[name].append(durations)
    for engine in engines.values():
        engine.close()
    alone = median(plain)
    say(
        f"{_STEPS} steps at {_WIDTH} x {_HEIGHT}, {_ROUNDS} rounds by turns: "
        f"diffusers alone {alone:.3f} s (final image only)"
    )
    for name in engines:
        # Each round against the bare run beside it, so that what else the machine does cancels.
        share = median(wall / base - 1 for wall, base in zip(walls[name], plain, strict=True))
        work = median(cpu / base - 1 for cpu, base in zip(cpus[name], plain_cpu, strict=True))
        counted = median(
            sums / wall for sums, wall in zip(reported[name], walls[name], strict=True)
        )
        say(
            f"  recorded, previews by {name:<10} {median(walls[name]):.3f} s: {share:+.1%} "
            f"(processor time {work:+.1%}); durations reported are {counted:.1%} of it"
        )


def _bare(pipeline: Pipeline, recipe: Recipe) -> tuple[float, float]:
    """Seconds, and seconds of processors, of drawing a recipe and encoding its final image."""
    import torch  # noqa: PLC0415 - an extra

    started, worked = time.perf_counter(), time.process_time()
    image = pipeline(
        recipe.prompt,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        width=recipe.width,
        height=recipe.height,
        generator=torch.Generator("cpu").manual_seed(recipe.seed),
    ).images[0]
    image.save(io.BytesIO(), "JPEG", quality=92)
    return time.perf_counter() - started, time.process_time() - worked


async def _recorded(
    engine: DiffusersEngine, recipe: Recipe, folder: Path
) -> tuple[float, float, float]:
    """As `_bare`, of drawing a set into a folder; and the sum of the durations in its meta."""
    async with FolderStore(folder) as store:
        recorder = Recorder(engine, store)
        started, worked = time.perf_counter(), time.process_time()
        planned = PlannedSet("prompt_001", recipe.seed, recipe, Description())
        meta = await recorder.record_planned(planned)
        took = time.perf_counter() - started, time.process_time() - worked
    return (*took, meta.total_duration or 0.0)


if __name__ == "__main__":
    main()
