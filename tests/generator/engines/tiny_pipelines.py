"""Real pipelines with random weights, small enough to draw in a moment; nothing is fetched.

They are saved to a folder, so that tests load them as any model is loaded. Import this module
only where torch and diffusers are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

for _library in (diffusers, transformers):
    _library.utils.logging.disable_progress_bar()

_ENDS = ("<|startoftext|>", "<|endoftext|>")


def save_sd(folder: Path, *, width: int = 32) -> Path:
    """A Stable Diffusion 1.5 in small: about a million parameters.

    Args:
        folder: where it goes.
        width: of the U-Net's first block; more is slower.
    """
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(),
        unet=_unet(width),
        scheduler=_euler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def save_sdxl(folder: Path) -> Path:
    """An SDXL in small: two text encoders, and the size among the conditions."""
    torch.manual_seed(0)
    config = _text_config(projection_dim=32)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            32,
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        scheduler=_euler(),
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def save_flux(folder: Path) -> Path:
    """A Flux in small: flow matching, a transformer, packed latents of 4 channels."""
    torch.manual_seed(0)
    text = T5Config(vocab_size=514, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    pipeline = FluxPipeline(
        vae=_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(_text_config(projection_dim=32)),
        text_encoder_2=T5EncoderModel(text),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        transformer=_louder(
            FluxTransformer2DModel(
                patch_size=1,
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                axes_dims_rope=(4, 4, 8),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return _saved(pipeline, folder)


def save_sd3(folder: Path) -> Path:
    """A Stable Diffusion 3 in small: flow matching, a transformer, three text encoders."""
    torch.manual_seed(0)
    config = _text_config(projection_dim=32)
    text = T5Config(vocab_size=514, d_model=64, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    pipeline = StableDiffusion3Pipeline(
        vae=_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        text_encoder_3=T5EncoderModel(text),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        tokenizer_3=_tokenizer(),
        transformer=_louder(
            SD3Transformer2DModel(
                sample_size=64,
                patch_size=2,
                in_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=64,
                pooled_projection_dim=64,
                out_channels=4,
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return _saved(pipeline, folder)


def save_tiny_decoder(folder: Path) -> Path:
    """A TAESD in small."""
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    tiny.save_pretrained(folder)
    return folder


def save_lora(folder: Path, *, seed: int = 0) -> Path:
    """A LoRA for `save_sd`'s U-Net, as trainers save them."""
    torch.manual_seed(seed)
    unet = _unet(32)
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)
    return folder


def _louder(transformer: Any) -> Any:
    """With a velocity of about unit variance, as trained ones predict."""
    with torch.no_grad():
        transformer.proj_out.weight.mul_(8)
    return transformer


def _unet(width: int, **options: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **{"cross_attention_dim": 32, **options},
    )
    with torch.no_grad():  # predicts noise of about unit variance, as trained ones do
        unet.conv_out.weight.mul_(4)
    return unet


def _vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        **options,
    )


def _euler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )


def _text_config(**options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **options,
    )


def _tokenizer() -> CLIPTokenizer:
    """One that knows single bytes only."""
    alphabet = _byte_alphabet()
    words = [*_ENDS, *alphabet, *(letter + "</w>" for letter in alphabet)]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77
    )


def _byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, as GPT-2's tokenizer has them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in shown] + [chr(256 + number) for number in range(256 - len(shown))]


def _saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    assert json.loads((folder / "model_index.json").read_text())
    return folder
