"""Stock models are imported without what they have no use for, which others find as ever."""

import subprocess
import sys

import pytest

ASKED = """
import sys
from pipeline import load_model
model = load_model("toy:trained")
assert "scipy.optimize" not in sys.modules
assert "torch._dynamo.eval_frame" not in sys.modules
assert "boto3" not in sys.modules
from accelerate import cpu_offload
from accelerate.commands.config import sagemaker
if hasattr(sagemaker, "boto3"):
    import boto3
    assert boto3 is sys.modules["boto3"] and sagemaker.boto3.Session is boto3.Session
import scipy.optimize
from transformers.loss import loss_for_object_detection as loss
costs = [[4, 1, 3], [2, 0, 5], [3, 2, 2]]
print(list(loss.linear_sum_assignment(costs)[1]), list(scipy.optimize.linear_sum_assignment(costs)[1]))

import torch
from transformers import models
assert models.GPT2Config().model_type == models.gpt2.configuration_gpt2.GPT2Config.model_type
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(2)).tolist() == [2, 2]
import torch._dynamo
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.eval_frame
assert torch._dynamo._trace_wrapped_higher_order_op.TransformGetItemToIndex
from transformers import masking_utils
assert masking_utils.TransformGetItemToIndex is torch._dynamo._trace_wrapped_higher_order_op.TransformGetItemToIndex
"""


@pytest.mark.slow
def test_an_engine_waits_for_no_scipy_no_cloud_and_no_compiler_and_whoever_wants_them_gets_them():
    words = [sys.executable, "-c", ASKED]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "1" in said.stdout
    assert len(set(said.stdout.replace("] [", "]|[").strip().split("|"))) == 1


def test_a_bundled_model_is_found_and_its_tokenizer_read_without_torch():
    asked = """
import sys
from pipeline.models.load import load_tokenizer, resolve_model
model = resolve_model("toy:trained")
assert model.config.vocab_size == len(load_tokenizer(model))
assert "torch" not in sys.modules
from transformers import modeling_rope_utils
import torch
assert modeling_rope_utils.torch.float32 is torch.float32
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
