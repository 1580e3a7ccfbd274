"The names of this module live in units, checks and fourier"
from .checks import *
from .units import *
from .fourier import *
