"""One experiment on many processes: on this machine, or as a script for where the devices are."""
