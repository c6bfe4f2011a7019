"""Names as people write them: `EAP-IG`, `bf16`, `kl`, and the names that are meant.

Knows other words for what is named here. Does not know where a name stands, nor whether it is one.
"""

import re
from collections.abc import Iterable

# In lower case, with _ between words.
_ALSO = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "fp64": "float64",
    "f64": "float64",
    "double": "float64",
    "torch_bfloat16": "bfloat16",
    "torch_float16": "float16",
    "torch_float32": "float32",
    "torch_float64": "float64",
    "kl": "kl_divergence",
    "kl_div": "kl_divergence",
    "logit_difference": "logit_diff",
    "prob_difference": "prob_diff",
    "probability_difference": "prob_diff",
    "negative_log_likelihood": "nll",
    "resample": "corrupted",
    "resampling": "corrupted",
    "corrupt": "corrupted",
    "mean_pos": "mean_positional",
    "positional_mean": "mean_positional",
    "edge_attribution_patching": "eap",
    "integrated_gradients": "eap_ig",
    "eap_with_integrated_gradients": "eap_ig",
    "activation_patching": "node_patching",
    "indirect_object_identification": "ioi",
}


def meant(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` is another spelling of, in whatever case and with whatever between its words; None
    where it is none of them. Words run together, as in `eapig`, are none: they are left to suggestions."""
    if not isinstance(name, str) or len(name) > 80:
        return None
    names = {_words(one): one for one in known}
    words = _words(name)
    return names.get(words) or names.get(_ALSO.get(words, ""))


def spelt(name: str, known: Iterable[str]) -> str:
    """`name` as it is known, and as it is where it is none of them."""
    return meant(name, known) or name


def _words(name: str) -> str:
    return re.sub(r"[\s_./-]+", "_", name.lower())
