"""Banks lie row by row in memory: fused optimizers, and files, take numbers as they lie there."""

import pytest
import torch
from torch import nn

from weightshare.depth.templates import TemplateBank, Templates
from weightshare.verbs import share_


@pytest.mark.parametrize("init", ["orthogonal", "sparse", "from_pretrained"])
@pytest.mark.parametrize("templates", [2, 7])
def test_banks_are_contiguous(init, templates):
    torch.manual_seed(1)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5)))
    share_(model, Templates(templates, init))
    (bank,) = (module for module in model.modules() if isinstance(module, TemplateBank))
    assert bank.coefficients.is_contiguous()
    assert bank.templates.is_contiguous()
