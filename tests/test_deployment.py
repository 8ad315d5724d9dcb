"""What a flow brings along at its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import sys
from streamrank.deployment import feast_store
import flows.rank
print(feast_store().__name__, "torch" in sys.modules)
import torch
print(torch.ones(2).sum().item())
import typeguard
print(typeguard.typechecked.__module__)
import feast
print("typeguard" in feast.FeatureView.__init__.__code__.co_names)
"""


@pytest.mark.slow
def test_a_flow_with_a_store_does_not_import_pytorch_and_still_could() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["FeastStore", "False", "2.0", "typeguard", "False"]
