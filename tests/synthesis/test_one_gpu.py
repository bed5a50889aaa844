"""The demo and the study are one process, on machines that have several GPUs too."""

from __future__ import annotations

import os

import pytest

from stablerep_hf.synthesis.workers import use_one_gpu


@pytest.mark.parametrize(("before", "after"), [(None, "0"), ("2,3", "2"), ("", ""), ("GPU-ab", "GPU-ab")])
def test_the_first_gpu_of_several_is_used(monkeypatch, before, after):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")  # so that it is put back
    if before is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    use_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
