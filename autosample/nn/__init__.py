"""Layers that sample their weight from a summary."""

from autosample.nn.layer import SummaryConv1d as SummaryConv1d
from autosample.nn.layer import SummaryConv2d as SummaryConv2d
from autosample.nn.layer import SummaryLayer as SummaryLayer
from autosample.nn.layer import SummaryLinear as SummaryLinear
from autosample.nn.layer import outer_modules as outer_modules
