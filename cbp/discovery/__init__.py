"""How the hidden layers of a model are found.

:mod:`~cbp.discovery.recording` runs one forward pass and tells of every operation; :mod:`~cbp.discovery.operations` is the
table of how each carries units; :mod:`~cbp.discovery.memory` knows what each tensor holds, :mod:`~cbp.discovery.uniting` which
units have become one, :mod:`~cbp.discovery.following` which weights make and receive them; :mod:`~cbp.discovery.finding` makes
groups of it.
"""
