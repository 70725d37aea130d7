from jaxdenoise.corruption import examples as examples
from jaxdenoise.corruption import lengths as lengths
from jaxdenoise.corruption import masks as masks
from jaxdenoise.corruption import rates as rates
from jaxdenoise.corruption import reorder as reorder
from jaxdenoise.corruption import restore as restore
from jaxdenoise.corruption import rewrite as rewrite
from jaxdenoise.corruption import spans as spans
