"""Everything on wheels but two: each maker gives a mesh (x forward, z = 0 ground) and its (length, width)."""

from pcsparse.data.synthetic.cars import car as car
from pcsparse.data.synthetic.lorries import bus as bus
from pcsparse.data.synthetic.lorries import tram as tram
from pcsparse.data.synthetic.lorries import truck as truck
from pcsparse.data.synthetic.towed import trailer as trailer

CAR, TRUCK, BUS, TRAILER, ON_RAILS = 10, 18, 13, 20, 16
