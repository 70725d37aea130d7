from jaxdenoise.corruption import lengths as lengths
from jaxdenoise.corruption import masks as masks
from jaxdenoise.corruption import restore as restore
from jaxdenoise.corruption import rewrite as rewrite
