"""The networks that the oracles know, by the model type of a stock model's config."""

from tests.oracles.families.base import Family
from tests.oracles.families.cohere import Cohere
from tests.oracles.families.gemma import Gemma2, Gemma3
from tests.oracles.families.gpt2 import Gpt2
from tests.oracles.families.llama import Granite, Llama, Phi3, Qwen3
from tests.oracles.families.mixtures import Mixtral, Qwen2Moe, Qwen3Moe
from tests.oracles.families.neox import GptJ, GptNeoX, Phi
from tests.oracles.families.olmo2 import Olmo2
from tests.oracles.families.opt import Opt

FAMILIES: dict[str, type[Family]] = {
    "gpt2": Gpt2,
    "llama": Llama,
    "mistral": Llama,
    "qwen2": Llama,
    "qwen3": Qwen3,
    "phi3": Phi3,
    "granite": Granite,
    "mixtral": Mixtral,
    "qwen2_moe": Qwen2Moe,
    "qwen3_moe": Qwen3Moe,
    "gemma2": Gemma2,
    "gemma3_text": Gemma3,
    "olmo2": Olmo2,
    "cohere": Cohere,
    "gpt_neox": GptNeoX,
    "gptj": GptJ,
    "phi": Phi,
    "opt": Opt,
}

__all__ = ["FAMILIES", "Family"]
