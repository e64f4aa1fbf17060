"""Text-to-3D, as sweeps and evaluations know it."""

from ..entry import Entry, trained_heights
from . import jobs, judged
from .expected import check_fits
from .run import APPLICATION, PRODUCTS, load

ENTRY = Entry(
    APPLICATION,
    jobs.add_arguments,
    jobs.plan,
    described=judged.described,
    elevations=trained_heights,
    judged=judged.pictures,
    check_fits=check_fits,
    products=PRODUCTS,
    load=load,
)
