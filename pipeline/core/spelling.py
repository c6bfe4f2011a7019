"""Names as people write them: `EAP-IG`, `bf16`, `kl`, and the names that are meant.

Knows other words for what is named here. Does not know where a name stands, nor whether it is one.
"""

import re
from collections.abc import Iterable

# By letters and digits alone, in lower case.
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
    "torchbfloat16": "bfloat16",
    "torchfloat16": "float16",
    "torchfloat32": "float32",
    "torchfloat64": "float64",
    "kl": "kl_divergence",
    "kldiv": "kl_divergence",
    "logitdifference": "logit_diff",
    "probdifference": "prob_diff",
    "probabilitydifference": "prob_diff",
    "negativeloglikelihood": "nll",
    "resample": "corrupted",
    "resampling": "corrupted",
    "corrupt": "corrupted",
    "meanpos": "mean_positional",
    "positionalmean": "mean_positional",
    "edgeattributionpatching": "eap",
    "integratedgradients": "eap_ig",
    "eapwithintegratedgradients": "eap_ig",
    "activationpatching": "node_patching",
    "indirectobjectidentification": "ioi",
}


def meant(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` is another spelling of, in whatever case and with whatever between its words; None
    where it is none of them."""
    if not isinstance(name, str) or len(name) > 80:
        return None
    names = {_letters(one): one for one in known}
    letters = _letters(name)
    return names.get(letters) or names.get(_letters(_ALSO.get(letters, "")))


def _letters(name: str) -> str:
    return re.sub(r"[\s_./-]+", "", name.lower())
