"""Layers that sample their weight from a summary."""

from autosample.nn.summary import SummaryConv1d as SummaryConv1d
from autosample.nn.summary import SummaryConv2d as SummaryConv2d
from autosample.nn.summary import SummaryLayer as SummaryLayer
from autosample.nn.summary import SummaryLinear as SummaryLinear
from autosample.nn.summary import outer_modules as outer_modules
