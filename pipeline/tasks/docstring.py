"""The next parameter in a docstring (Heimersheim and Janiak, "A circuit for Python docstrings", 2023).

    def port(self, load, size, files, last):
        \"\"\"...

        :param load: ...
        :param size: ...
        :param  ->  files

Knows names that programs use. The paper's metric is the answer's logit less the highest of the wrong ones; `logit_diff`
takes their mean.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.core.graph import Graph
from pipeline.tasks import published
from pipeline.tasks.base import listed, pick
from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice

NAMES = listed("""
    load size files last name value count first page index result order item path text node data key type state label
    width color style source target limit offset image line word group user code task model weight start stop step time
    date list table field parent child event message error number level mode range score shape title token
    """)
VERBS = listed("port read make send move open write find check build fetch create update process")
NOUNS = listed("house garden river table water music paper window market story letter garage summer winter")


class Docstring(FramedTask):
    """`count` Python functions of four parameters, two of them documented; the answer is the third.

    Corruption: `random_names` (the paper's) other names in place of all, in definition and docstring apart;
    `random_doc` the two documented ones by others; `random_answer` the answer's where it is defined.
    Spans: `a1` to `a4` in the definition, `b1` and `b2` in the docstring, and `end`; the answer stands at `a3`.
    """

    name: Literal["docstring"] = "docstring"
    corruption: Literal["random_names", "random_doc", "random_answer"] = "random_names"

    paper: ClassVar = "Heimersheim and Janiak, 2023"

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:
        """The circuit of a small model of attention alone (`published`), found with `random_names`: under the other
        corruptions those of its edges that carry only what stays have no effect."""
        return published.docstring(graph, model)

    def frames(self) -> Sequence[str]:
        return (
            (
                "def {verb}(self, {name.a1}, {name.a2}, {name.a3}, {name.a4}):\n"
                '    """{noun.n0} {noun.n1}\n\n'
                "    :param {name.b1}: {noun.n2} {noun.n3}\n"
                "    :param {name.b2}: {noun.n4} {noun.n5}\n"
                "    :param {name.answer}"
            ),
        )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {"name": NAMES, "verb": VERBS, "noun": NOUNS}

    def writer(self, lexicon: Lexicon) -> Writer:
        names, verbs, nouns = (lexicon.words(kind) for kind in ("name", "verb", "noun"))
        self.too_few(lexicon, "name", 10)
        self.too_few(lexicon, "noun", 6)

        def draw(rng: np.random.Generator) -> Filling:
            first, second, answer, last, *others = pick(rng, names, 10)
            clean = {"a1": first, "a2": second, "a3": answer, "a4": last, "b1": first, "b2": second}
            replaced = {
                "random_names": tuple(clean),
                "random_doc": ("b1", "b2"),
                "random_answer": ("a3",),
            }[self.corruption]
            exchanged = dict(zip(replaced, others, strict=False))
            clean |= {f"n{i}": noun for i, noun in enumerate(pick(rng, nouns, 6))} | {
                "verb": choice(rng, verbs)
            }
            return Filling(choice(rng, lexicon.frames), clean, exchanged, (answer,), (first, second, last))

        return draw
