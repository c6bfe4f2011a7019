import pytest

from pipeline.core.documents import suggest
from pipeline.core.spelling import meant
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.tasks import TASKS

NAMES = [cls.model_fields["name"].default for cls in (*METHODS, *TASKS)] + list(METRICS)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_understood_in_any_case_and_with_anything_between_its_words(name):
    for written in (name, name.upper(), name.replace("_", "-"), name.replace("_", " ").title()):
        assert meant(written, NAMES) == name


@pytest.mark.parametrize(
    ("written", "known", "name"),
    [
        ("EAP-IG", NAMES, "eap_ig"),
        ("kl", NAMES, "kl_divergence"),
        ("bf16", ["float32", "bfloat16"], "bfloat16"),
        ("torch.float16", ["float16"], "float16"),
        ("bf16", ["float32"], None),
        ("eap_gi", NAMES, None),
        ("eapig", NAMES, None),
        ("", NAMES, None),
        (16, NAMES, None),
        (None, NAMES, None),
    ],
)
def test_other_words_are_understood_where_what_they_mean_is_known(written, known, name):
    assert meant(written, known) == name


def test_a_suggestion_knows_other_words_too():
    assert suggest("kl", METRICS).startswith("; did you mean 'kl_divergence'?")
