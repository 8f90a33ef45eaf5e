"""Networks of torchvision, timm and transformers, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cbp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # third-party warnings about third-party code
]

VISION = """
    resnet18 resnet50 vgg11_bn mobilenet_v2 mobilenet_v3_small densenet121 efficientnet_b0 convnext_tiny vit_b_32 swin_t
    squeezenet1_0 shufflenet_v2_x0_5 regnet_y_400mf mnasnet0_5 alexnet googlenet
"""
TIMM = """
    resnet18 resnetv2_50 vit_tiny_patch16_224 deit_tiny_patch16_224 mixer_s32_224 convnext_atto efficientnet_b0
    mobilenetv3_small_050 repvgg_a0 densenet121 regnetx_002 resmlp_12_224 gmlp_ti16_224 swin_tiny_patch4_window7_224
    eva02_tiny_patch14_224 edgenext_xx_small ghostnet_050 dla34 vgg11 nfnet_l0 pit_ti_224 coat_lite_tiny poolformer_s12
    levit_128s
"""


def treated(model: torch.nn.Module, example: Any) -> tuple[int, int]:
    """How many hidden layers are found, and of how many units; after three of them were verified."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # scales that begin at 0 or 1e-6 would hide what goes wrong in front of them
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    layers = cbp.find_layers(model, example)
    deviation = cbp.verify(model, example, [layers[0], layers[len(layers) // 2], layers[-1]])
    assert deviation < 1e-3 or any(layer.coupled for layer in layers)
    return len(layers), sum(layer.units for layer in layers)


def of_transformers(library: Any) -> dict[str, Callable[[], tuple[Any, Any]]]:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    tokens = {"input_ids": torch.randint(1, 40, (2, 7), generator=torch.Generator().manual_seed(0))}
    gated = {**small, "intermediate_size": 64, "num_key_value_heads": 1}
    return {
        "gpt2": lambda: (library.GPT2LMHeadModel(library.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50)), tokens),
        "bert": lambda: (library.BertForMaskedLM(library.BertConfig(**small, intermediate_size=64)), tokens),
        "llama": lambda: (library.LlamaForCausalLM(library.LlamaConfig(**gated)), tokens),
        "qwen": lambda: (library.Qwen2ForCausalLM(library.Qwen2Config(**gated)), tokens),
    }


@pytest.mark.parametrize("name", VISION.split())
def test_networks_of_torchvision(name):
    models = pytest.importorskip(
        "torchvision.models", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError)
    )
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = getattr(models, name)(weights=None, **options).eval()
    size = 224 if name.startswith(("vit", "swin")) else 64
    layers, units = treated(model, (torch.randn(2, 3, size, size),))
    assert layers >= 1
    assert units >= 8


@pytest.mark.parametrize("name", TIMM.split())
def test_networks_of_timm(name):
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=(ImportError, RuntimeError))
    model = timm.create_model(name, pretrained=False).eval()
    size = 224 if "224" in name or name.startswith(("coat", "levit")) else 64
    layers, units = treated(model, (torch.randn(2, 3, size, size),))
    assert layers >= 1
    assert units >= 8


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "qwen"])
def test_networks_of_transformers(name):
    library = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
    model, example = of_transformers(library)[name]()
    layers, units = treated(model.eval(), {**example, "use_cache": False} if name != "bert" else example)
    assert layers >= 4  # of each block the feed-forward units and the values of the attention
    assert units >= 2 * 64
