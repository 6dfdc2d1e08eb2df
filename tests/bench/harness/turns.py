"""Rounds in which every case has its short turn, since the speed of a virtual machine changes within
seconds: a slow moment falls on all alike."""


def rounds(watch, what, number, names, take):
    """Of each round, {name: take(meter, name)}; every other one is in the reverse order."""
    print(f"{what}: {number} rounds")
    for count in range(number):
        order = list(names) if count % 2 == 0 else list(names)[::-1]
        yield watch.undisturbed(what, lambda meter: {name: take(meter, name) for name in order})
