"""The engine's logits, family by family, against transformers; and the same bits however the work
is cut."""

import json

import numpy as np
import pytest
import torch

import families
from programs import bin_dir, missing
from test_files import stack_experts  # noqa: F401

LENGTHS = (1, 17, 60, 150)  # one more than a block of attention; longer than every window
