"""Compressed layers: layers that sample their weight from a summary, and the interface that all methods share."""

from autosample.nn.becoming import become as become
from autosample.nn.coded import CodedLayer as CodedLayer
from autosample.nn.compressed import Compressed as Compressed
from autosample.nn.faces import SummaryConv1d as SummaryConv1d
from autosample.nn.faces import SummaryConv2d as SummaryConv2d
from autosample.nn.faces import SummaryConv3d as SummaryConv3d
from autosample.nn.faces import SummaryConvTranspose1d as SummaryConvTranspose1d
from autosample.nn.faces import SummaryConvTranspose2d as SummaryConvTranspose2d
from autosample.nn.faces import SummaryLinear as SummaryLinear
from autosample.nn.faces import SumProductConv1d as SumProductConv1d
from autosample.nn.faces import SumProductConv2d as SumProductConv2d
from autosample.nn.faces import SumProductLinear as SumProductLinear
from autosample.nn.facts import Facts as Facts
from autosample.nn.finding import compressed_layers as compressed_layers
from autosample.nn.finding import outer_modules as outer_modules
from autosample.nn.layer import SummaryLayer as SummaryLayer
from autosample.nn.running import execution as execution
from autosample.nn.sum_product import SumProductLayer as SumProductLayer
