"""Criteria: one file each, a plain function from a network and its blocks to scores."""

from layerticket.criteria import cka as cka
from layerticket.criteria import expect_abs as expect_abs
from layerticket.criteria import grasp as grasp
from layerticket.criteria import hrank as hrank
from layerticket.criteria import kl as kl
from layerticket.criteria import magnitude as magnitude
from layerticket.criteria import pls as pls
from layerticket.criteria import random as random
from layerticket.criteria import snip as snip
from layerticket.criteria import synflow as synflow
