"""Compressed layers: those that sample their weight from a summary, and the protocol that all methods share."""

from autosample.nn.becoming import become as become
from autosample.nn.coded import CodedLayer as CodedLayer
from autosample.nn.compressed import Compressed as Compressed
from autosample.nn.compressed import Facts as Facts
from autosample.nn.compressed import compressed_layers as compressed_layers
from autosample.nn.compressed import outer_modules as outer_modules
from autosample.nn.faces import SummaryConv1d as SummaryConv1d
from autosample.nn.faces import SummaryConv2d as SummaryConv2d
from autosample.nn.faces import SummaryConv3d as SummaryConv3d
from autosample.nn.faces import SummaryConvTranspose1d as SummaryConvTranspose1d
from autosample.nn.faces import SummaryConvTranspose2d as SummaryConvTranspose2d
from autosample.nn.faces import SummaryLinear as SummaryLinear
from autosample.nn.layer import SummaryLayer as SummaryLayer
from autosample.nn.running import execution as execution
