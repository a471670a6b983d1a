"""Zachary's karate club, a graph of 34 people with known sides."""

import numpy as np

from nnkernels.data.checks import Labels

# Each member's friends with a higher number, members counted from 1 as in the paper.
FRIENDS = {
    1: (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 18, 20, 22, 32),
    2: (3, 4, 8, 14, 18, 20, 22, 31),
    3: (4, 8, 9, 10, 14, 28, 29, 33),
    4: (8, 13, 14), 5: (7, 11), 6: (7, 11, 17), 7: (17,), 9: (31, 33, 34), 10: (34,), 14: (34,),
    15: (33, 34), 16: (33, 34), 19: (33, 34), 20: (34,), 21: (33, 34), 23: (33, 34),
    24: (26, 28, 30, 33, 34), 25: (26, 28, 32), 26: (32,), 27: (30, 34), 28: (34,), 29: (32, 34),
    30: (33, 34), 31: (33, 34), 32: (33, 34), 33: (34,),
}  # fmt: skip
WITH_INSTRUCTOR = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 17, 18, 20, 22)


def karate_club() -> tuple[Labels, Labels]:
    """Edges (2, 78) among the 34 members of a karate club, and the side (34,) each took when it broke up.

    An edge joins two who met outside of the lessons; each is listed once. Members are counted from 0: 0 is
    the instructor, whom side 0 followed, 33 the president, with whom side 1 stayed (Zachary, An Information
    Flow Model for Conflict and Fission in Small Groups, Journal of Anthropological Research 33, 1977).

    >>> edges, sides = karate_club()
    >>> edges.shape, np.bincount(sides).tolist()
    ((2, 78), [17, 17])
    """
    pairs = [(member, friend) for member, friends in FRIENDS.items() for friend in friends]
    sides = np.ones(34, np.int64)
    sides[np.array(WITH_INSTRUCTOR) - 1] = 0
    return np.array(pairs, np.int64).T - 1, sides
