"""Weighted graphs whose communities are known."""

import numpy as np

from sdlms.structure.communities import Graph


def random_graph(n_units: int, n_edges: int, seed: int = 0) -> Graph:
    """Distinct pairs with weights in (0, 1]."""
    generator = np.random.default_rng(seed)
    pairs = np.stack(np.triu_indices(n_units, 1))
    first, second = pairs[:, generator.choice(pairs.shape[1], n_edges, replace=False)]
    return Graph(first, second, 1 - generator.random(n_edges), n_units)


def planted_graph(n_modules: int, size: int, seed: int = 0) -> tuple[Graph, np.ndarray]:
    """Modules joined by many strong edges and few weak ones; the last unit has no edge."""
    generator = np.random.default_rng(seed)
    modules = generator.permutation(np.repeat(np.arange(n_modules), size))
    first, second = np.triu_indices(len(modules), 1)
    same = modules[first] == modules[second]
    kept = generator.random(len(first)) < np.where(same, 0.7, 0.05)
    weight = np.where(same, 0.8, 0.2) * (0.5 + generator.random(len(first)) / 2)
    graph = Graph(first[kept], second[kept], weight[kept], len(modules) + 1)
    return graph, np.append(modules, -1)
