"""Requests with images: encoded once each, and the tokens are those of the policy's own sampler."""

import jax
import numpy as np
import pytest

import internvl
from core import sample
from core.sample import Sampling
from internvl import model
from rl.engine import Engine, Request
