"""The world of the simulator: cities, customers and terminals, and what an ordinary day of theirs looks like."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CATEGORIES",
    "CITIES",
    "DAY_US",
    "HOUR_US",
    "Category",
    "City",
    "Events",
    "Floats",
    "Ints",
    "World",
    "draw",
    "make_world",
    "ordinary_events",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_FAVOURITES = 12


@dataclass(frozen=True)
class City:
    """A place with its share of the customers; local time is UTC plus a whole hour for each 15 degrees."""

    name: str
    latitude: float
    longitude: float
    currency: str
    share: float


@dataclass(frozen=True)
class Category:
    """A line of trade: channel, share of the terminals, and amounts against a customer's ordinary one."""

    name: str
    channel: str
    share: float
    amount_factor: float


CITIES = (
    City("New York", 40.71, -74.01, "USD", 0.24),
    City("Los Angeles", 34.05, -118.24, "USD", 0.18),
    City("Chicago", 41.88, -87.63, "USD", 0.13),
    City("Houston", 29.76, -95.37, "USD", 0.11),
    City("Miami", 25.76, -80.19, "USD", 0.09),
    City("Seattle", 47.61, -122.33, "USD", 0.07),
    City("Denver", 39.74, -104.99, "USD", 0.06),
    City("London", 51.51, -0.13, "GBP", 0.04),
    City("Paris", 48.86, 2.35, "EUR", 0.03),
    City("Berlin", 52.52, 13.41, "EUR", 0.03),
    City("Tokyo", 35.68, 139.69, "JPY", 0.02),
)
CATEGORIES = (
    Category("marketplace", "online", 0.10, 1.2),
    Category("digital", "online", 0.06, 0.5),
    Category("travel", "online", 0.04, 5.0),
    Category("grocery", "pos", 0.28, 0.9),
    Category("restaurant", "pos", 0.22, 0.8),
    Category("fuel", "pos", 0.12, 1.1),
    Category("electronics", "pos", 0.06, 3.5),
    Category("pharmacy", "pos", 0.08, 0.6),
    Category("cash", "atm", 0.04, 2.5),
)
# Weight of each local hour of the day, and of each weekday from Monday.
_HOURS = (
    1,
    0.6,
    0.4,
    0.3,
    0.3,
    0.6,
    1.5,
    3,
    4.5,
    5,
    5.5,
    6.5,
    7.5,
    6.5,
    6,
    6,
    6.5,
    7.5,
    8,
    7.5,
    6,
    4.5,
    3,
    1.8,
)
_WEEKDAYS = (1.0, 1.0, 1.0, 1.05, 1.2, 1.25, 0.9)


@dataclass(frozen=True)
class World:
    """Customers and terminals by number; every array has one entry for each of them.

    ``amount`` is a customer's ordinary amount in US dollars (median), ``favourites`` the terminals it mostly
    uses. Terminals are in order of their city: ``c`` has those from ``city_start[c]`` to ``city_start[c + 1]``.
    """

    customer_city: Ints
    customer_latitude: Floats
    customer_longitude: Floats
    activity: Floats
    amount: Floats
    favourites: Ints
    terminal_city: Ints
    terminal_latitude: Floats
    terminal_longitude: Floats
    terminal_category: Ints
    popularity: Floats
    city_start: Ints
    online: Ints

    def local_terminals(self, rng: np.random.Generator, city: Ints) -> Ints:
        """A terminal of each given city, the popular ones more often."""
        edges = np.concatenate([[0.0], np.cumsum(self.popularity)])
        low, high = edges[self.city_start[city]], edges[self.city_start[city + 1]]
        chosen = np.searchsorted(edges, low + rng.random(len(city)) * (high - low), side="right") - 1
        return np.asarray(np.clip(chosen, self.city_start[city], self.city_start[city + 1] - 1))

    def ordinary_amounts(self, rng: np.random.Generator, customer: Ints, terminal: Ints) -> Floats:
        """US dollars that these customers would ordinarily spend at these terminals."""
        factors = np.array([category.amount_factor for category in CATEGORIES])
        spread = np.exp(rng.normal(0.0, 0.55, len(customer)))
        return np.asarray(self.amount[customer] * factors[self.terminal_category[terminal]] * spread)

    def utc(self, city: Ints, local_us: Ints) -> Ints:
        """Microseconds UTC of local ones, in the zone of each city."""
        longitude = np.array([place.longitude for place in CITIES])
        return np.asarray(local_us - np.round(longitude[city] / 15).astype(np.int64) * HOUR_US)


@dataclass
class Events:
    """Transactions as arrays of one length; ``at_us`` is microseconds since the first instant, UTC.

    ``usd`` is the amount in US dollars before it is rounded into the currency of the terminal's city; ``kind``
    is 0 for a genuine transaction and the fraud's number in ``simulated_fraud.KINDS`` plus one otherwise.
    """

    customer: Ints
    terminal: Ints
    at_us: Ints
    usd: Floats
    kind: Ints

    def __len__(self) -> int:
        return len(self.customer)

    @classmethod
    def joined(cls, parts: list["Events"]) -> "Events":
        """All events of the parts, one part after the other."""
        names = ("customer", "terminal", "at_us", "usd", "kind")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def taken(self, rows: Ints) -> "Events":
        """The events at these rows, in their order."""
        return Events(
            self.customer[rows], self.terminal[rows], self.at_us[rows], self.usd[rows], self.kind[rows]
        )


def draw(rng: np.random.Generator, weights: Floats | tuple[float, ...], size: int) -> Ints:
    """Indices drawn with these weights."""
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, rng.random(size) * edges[-1], side="right")
    return np.asarray(np.minimum(drawn, len(edges) - 1))


def make_world(rng: np.random.Generator, customers: int, terminals: int) -> World:
    """Draw the customers and terminals; there is at least one terminal a city, and one online."""
    shares = tuple(city.share for city in CITIES)
    terminals = max(terminals, 2 * len(CITIES))
    at_least_one = np.arange(len(CITIES))
    terminal_city = np.sort(np.concatenate([at_least_one, draw(rng, shares, terminals - len(CITIES))]))
    category = draw(rng, tuple(kind.share for kind in CATEGORIES), terminals)
    category[0] = 0
    city_start = np.searchsorted(terminal_city, np.arange(len(CITIES) + 1))
    customer_city = draw(rng, shares, customers)
    is_online = np.array([kind.channel == "online" for kind in CATEGORIES])
    world = World(
        customer_city,
        *_places(rng, customer_city),
        activity=np.exp(rng.normal(0.0, 0.8, customers)),
        amount=np.exp(rng.normal(np.log(28.0), 0.7, customers)),
        favourites=np.empty((customers, 0), dtype=np.int64),
        terminal_city=terminal_city,
        **dict(zip(("terminal_latitude", "terminal_longitude"), _places(rng, terminal_city), strict=True)),
        terminal_category=category,
        # A few terminals have most of the custom; the cap keeps one of them from having all of it.
        popularity=np.minimum(rng.pareto(1.3, terminals) + 0.3, 60.0),
        city_start=city_start,
        online=np.flatnonzero(is_online[category]),
    )
    favourites = world.local_terminals(rng, np.repeat(customer_city, _FAVOURITES)).reshape(
        customers, _FAVOURITES
    )
    return World(**{**vars(world), "favourites": favourites})


def _places(rng: np.random.Generator, city: Ints) -> tuple[Floats, Floats]:
    """Latitude and longitude around each city's centre, mostly within some 15 km, to 4 decimals (about 10 m)."""
    centre = np.array([(place.latitude, place.longitude) for place in CITIES])[city]
    around = centre + rng.normal(0.0, 0.1, centre.shape)
    return np.round(around[:, 0], 4), np.round(around[:, 1], 4)


def ordinary_events(rng: np.random.Generator, world: World, size: int, days: int, weekday: int) -> Events:
    """Genuine transactions over ``days`` days, the first of which is this weekday (0 Monday), in no order of time."""
    customer = draw(rng, world.activity, size)
    city = world.customer_city[customer]
    day = draw(rng, tuple(_WEEKDAYS[(weekday + number) % 7] for number in range(days)), size)
    hour = draw(rng, _HOURS, size)
    local = day * DAY_US + hour * HOUR_US + rng.integers(0, HOUR_US, size)
    favourite = world.favourites[customer, rng.integers(0, _FAVOURITES, size)]
    habit = rng.random(size)
    terminal = np.where(habit < 0.80, favourite, world.local_terminals(rng, city))
    terminal = np.where(habit > 0.93, world.online[rng.integers(0, len(world.online), size)], terminal)
    usd = world.ordinary_amounts(rng, customer, terminal)
    return Events(customer, terminal, world.utc(city, local), usd, np.zeros(size, dtype=np.int64))
