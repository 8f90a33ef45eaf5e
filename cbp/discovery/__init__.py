"""How the hidden layers of a model are found.

:mod:`~cbp.discovery.recording` runs one forward pass and tells of every operation; :mod:`~cbp.discovery.operations` is the
table of how each carries units; :mod:`~cbp.discovery.following` knows what each tensor holds; :mod:`~cbp.discovery.finding`
makes groups of it.
"""
