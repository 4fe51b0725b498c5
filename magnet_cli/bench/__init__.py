"""Memory and speed of the program against image size, beside yardsticks measured in the same rounds.

Every contender is a process of its own, so that the memory of one never counts for another. A round asks each in turn,
and figures are compared within their round.
"""
