"""The table of methods, and how the command line names them.

A run trains the learners of one method, and serves every method that needs no others: the test-time
methods all act with one pair of a flow policy and a critic. No JAX here, so that `qgf methods` and a
mistyped option answer at once.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

from qgf_guide.bounds import Field
from qgf_jax.errors import UserError
from qgf_jax.methods.options import OF_CRITIC, Options, Split
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.parts import Names, Part

_FROM_ELSEWHERE = frozenset({"goals", "goal_observations", "calibration", "weights", "evaluation"})
"""Needs that the environment or the run provides, and no part."""


class Method(NamedTuple):
    """A row: the parts of a method, by name, and what it fixes of them."""

    name: str
    about: str
    source: str
    sampler: str = "guided"
    options: Mapping[str, Any] = {}
    """What the row fixes of the sampler and of its rule."""
    policies: tuple[str, ...] = ("flow_bc",)
    critic: str = "iql"
    """That it is trained with unless the user says otherwise."""
    fixed_critic: bool = False
    """Whether another critic would make it another method."""
    extra_needs: tuple[str, ...] = ()
    """Of the critic or the environment, beyond what its parts need."""
    selector: str = "best_of"
    best_of: tuple[int, ...] = (1,)
    """How many candidates an action is chosen from, unless the user says otherwise."""
    fixed_best_of: bool = False
    weights: tuple[float, ...] = ()
    """What to sweep over unless the user says otherwise, where the units are not those of `qgf`."""
    settings: Mapping[str, Any] = {}
    """Config values that make the method what it is."""
    by_env: Mapping[str, Mapping[str, Any]] = {}
    """Config values that its authors chose by environment: key -> {pattern of the data's name: value}.

    The first pattern that fits counts, unless the file says another value than the default of `make`,
    or the command line sets the key."""
    paper: Mapping[str, Any] = {}
    """What the preset `paper` changes for it, beyond `config.PRESETS`."""

    @classmethod
    def named(cls, name: str) -> "Method":
        """The row called `name`; `UserError` with the nearest one if there is none."""
        if name not in METHODS:
            raise UserError.unknown("method", name, METHODS)
        return METHODS[name]

    @classmethod
    def parse(cls, text: str) -> tuple[str, Options]:
        """A method as the command line writes it: NAME or NAME:option=value:option=value.

        `UserError` for what does not exist, for a value out of bounds, and for what makes the row what
        it is.
        """
        name, *settings = text.split(":")
        row = cls.named(name)
        found: dict[str, Any] = {}
        for setting in settings:
            option, equals, value = setting.partition("=")
            if not equals:
                raise UserError(f"method {text!r}: {setting!r} is not of the form option=value")
            bound = row._option(option).bound
            found[option] = bound.read(f"option {option} of {name}", value)
        options = tuple(sorted(found.items()))
        row.selection(options)
        return name, options

    @property
    def serves(self) -> list[str]:
        """The methods that a checkpoint trained as this one can act with; none without a policy."""
        return [
            name
            for name, row in METHODS.items()
            if row.acts
            and (
                row == self
                or (set(row.policies) <= set(self.policies) and not self._is_another_training(row))
            )
        ]

    @property
    def acts(self) -> bool:
        """Whether it has a policy. A run without one learns a critic, for policies from elsewhere."""
        return self.sampler != "none"

    def check_acts(self, place: object) -> None:
        """Raises `UserError` unless a run of it, in the folder `place`, has a policy."""
        if not self.acts:
            raise UserError(
                f"{place} has no policy to act: guide your own with qgf_jax.load_critic, or add one "
                "with `qgf train --from`"
            )

    def further(self, critics: str) -> dict[str, tuple[str, str]]:
        """What checkpoints with these critics can have added: part -> method and critics with it."""
        given = critics.split(",")
        found: dict[str, tuple[str, str]] = {}
        for name, row in METHODS.items():
            if (more := row._policy_beyond(self)) and given[0] in row.critics:
                found.setdefault(more, (name, critics))
        if any(Part.named("critic", name).sets for name in given):
            return found
        new = [n for n in self.critics if n not in given and not Part.named("critic", n).sets]
        return found | {name: (self.name, f"{critics},{name}") for name in new}

    def _policy_beyond(self, other: "Method") -> str:
        """The policy that it has more than `other`, if that is the only difference; else ""."""
        more = set(self.policies) - set(other.policies)
        longer = len(self.policies) > len(other.policies)
        return more.pop() if longer and len(more) == 1 else ""

    def _is_another_training(self, row: "Method") -> bool:
        """Equal learners with other settings, as of qsm and qsm_bc: two trainings, one sampler."""
        return row.policies == self.policies and row.settings != self.settings

    @property
    def canonical(self) -> str:
        """The first method with the same sampler, so that reference actions are sampled once."""

        def acting(row: Method) -> tuple[Any, ...]:
            return row.policies, row.settings, row.sampler, row.options, row.selector

        return next(name for name, row in METHODS.items() if acting(row) == acting(self))

    @property
    def critics(self) -> tuple[str, ...]:
        """All that it can be trained with, its own first: those that provide what its parts need."""
        if self.fixed_critic:
            return (self.critic,)
        needs = self.needs()
        others = [
            name
            for name, found in sorted(Part.all("critic").items())
            if needs <= found.provides and name != self.critic
        ]
        return (self.critic, *others)

    def check_critics(self, names: str) -> list[str]:
        """The critics that `names` lists, "iql" or "iql,td".

        Raises `UserError` unless it can be trained with all of them, side by side.
        """
        given = names.split(",")
        for name in given:
            if name not in self.critics:
                raise UserError.unknown(f"critic of {self.name}", name, self.critics)
            if len(given) > 1 and (sets := Part.named("critic", name).sets):
                raise UserError(
                    f"critic {name!r} is trained by itself: it sets {min(sets)} for the whole run"
                )
        if len({*given}) < len(given):
            raise UserError(f"critics {names}: name each once")
        return given

    @property
    def goals(self) -> bool:
        """Whether it needs an environment with goals."""
        own = (*self.extra_needs, *Part.named("critic", self.critic).needs)
        needs = frozenset(own).union(*(found.needs for found in self._parts()))
        return bool(needs & {"goals", "goal_observations"})

    @property
    def weighted(self) -> bool:
        """Whether the guidance weight means anything."""
        return not any("weight" in found.ignores for found in self._parts())

    @property
    def at_zero(self) -> str:
        """The method with the same actions at weight 0, if there is one."""
        guides = self.weighted and "flow" in Part.named("sampler", self.sampler).needs
        return "reference" if guides else ""

    @property
    def all_options(self) -> dict[str, Field]:
        """The options of the sampler and of the parts that the row fixes, with the row's own values.

        Those that a fixed part ignores, such as the schedule of a policy without guidance, are left out.
        """
        fields = dict(Part.named("sampler", self.sampler).fields)
        fixed = self._chosen(self.options)
        for found in fixed:
            fields |= found.fields
        idle = frozenset().union(*(found.ignores for found in fixed))
        fields = {name: field for name, field in fields.items() if name not in idle}
        return fields | {k: fields[k]._replace(default=v) for k, v in self.options.items()}

    @property
    def free_options(self) -> dict[str, Field]:
        """The options that a user may set."""
        return {k: v for k, v in self.all_options.items() if k not in self.options}

    @property
    def acting_options(self) -> dict[str, Field]:
        """What a user may set for acting: `free_options`, the critic's, the selector's, those of `Pace`.

        No training has the last two.
        """
        inpaints = "inpainting" in Part.named("sampler", self.sampler).provides
        free = self.free_options | self.critic_options | self.selector_options
        return free | Pace.options(inpaints)

    @property
    def critic_options(self) -> dict[str, Field]:
        """What a user may set of the critic, if guidance or the best of N can ask it.

        An option of the sampler's own that has such a name goes before.
        """
        asked = self.acting_needs({}, max(self.best_of) if self.fixed_best_of else 2)
        own = self.all_options
        return {k: v for k, v in OF_CRITIC.items() if "q" in asked and k not in own}

    @property
    def selector_options(self) -> dict[str, Field]:
        """What a user may set of how one of N candidates is chosen, where N can be more than 1.

        An option of the sampler's own that has such a name goes before.
        """
        if self.fixed_best_of and self.best_of == (1,):
            return {}
        own = self.all_options
        return {k: v for k, v in Split.of_selectors(self.selector).items() if k not in own}

    def selection(self, options: Options) -> tuple[Part, dict[str, Any]]:
        """The selector of several candidates under `options`, and its own; see `Split.selection`."""
        return self.split_options(options).selection(self.name, self.sampler, self.selector)

    def split_options(self, options: Options) -> Split:
        """`options` by whose they are."""
        return Split.of(options, self.all_options) if options else Split({}, {}, {})

    def without_idle(self, options: Options, best_of: int) -> Options:
        """`options` less those of what acting with `best_of` candidates does not ask."""
        split = self.split_options(options)
        idle = set() if best_of > 1 else {*split.selector}
        if split.critic and "q" not in self.acting_needs(split.sampler, best_of, options):
            idle |= {*split.critic}
        return tuple((k, v) for k, v in options if k not in idle)

    def check_idle(self, options: Options, best_of: int) -> None:
        """Raises `UserError` for an option of the critic or of a choice that nobody would ask."""
        self.selection(options)  # or one line that an option's selector is not chosen
        kept = self.without_idle(options, best_of)
        for option in options:
            if option not in kept:
                many = "give best_of" if best_of == 1 else "leave it out"
                raise UserError(
                    f"{self.name} with {best_of} candidate{'s' * (best_of > 1)} has no use for "
                    f"{option[0]}={option[1]}: {many}"
                )

    def arguments(self, options: Options) -> tuple[str, ...]:
        """Which of `options` a compiled program takes as arguments, so that it serves all values.

        Numbers other than their defaults. A number at its default is part of the program, where what it
        switches off costs nothing; so are words, switches and whole numbers.
        """
        if not options:
            return ()
        known = Pace.options() | Split.of_selectors(self.selector) | OF_CRITIC | self.all_options
        return tuple(k for k, v in options if known[k].bound.is_real and v != known[k].default)

    def check_option(self, option: str, value: Any) -> None:
        """Raises `UserError` if `value` is none that `option` can have."""
        self._option(option).bound.check(f"option {option} of {self.name}", value)

    def _option(self, option: str) -> Field:
        free = self.acting_options
        if option not in free:
            raise UserError.unknown(f"option of {self.name}", option, free)
        return free[option]

    def check(self) -> None:
        """Raises `UserError` for a part that does not exist, and for an option that no part has."""
        for kind in ("selector", "critic"):
            Part.named(kind, getattr(self, kind))
        known = {option for found in self._parts() for option in found.fields}
        for option in self.options:
            if option not in known:
                raise UserError.unknown("option", option, known)
        if taken := sorted(self.all_options.keys() & Pace.options().keys()):
            raise UserError(f"option {taken[0]!r} says how chunks are played, whatever the method")

    def needs(self, settings: Mapping[str, Any] = {}) -> frozenset[str]:
        """What acting with `settings`, and training, ask of the critic and of further learners."""
        found = [*self._parts(settings)]
        if not self.fixed_best_of or self.best_of != (1,):
            found.append(Part.named("selector", self.selector))
        asked = frozenset(self.extra_needs).union(*(x.needs for x in found))
        return asked.difference(_FROM_ELSEWHERE, *(x.provides for x in found))

    def acting_needs(
        self, settings: Mapping[str, Any], best_of: int, options: Options = ()
    ) -> frozenset[str]:
        """What acting with `settings` and `best_of` candidates asks of the run's learners.

        `options` may choose the selector.
        """
        found = [*self._acting(settings)]
        if best_of > 1:
            found.append(self.selection(options)[0])
        asked = frozenset().union(*(x.needs for x in found))
        gate = settings.get("gate", 0.0)  # asks the critic's members, whatever the rule asks
        if not isinstance(gate, int | float) or gate:
            asked |= {"q"}
        return asked.difference(_FROM_ELSEWHERE, *(x.provides for x in found))

    def _parts(self, settings: Mapping[str, Any] = {}) -> Iterator[Part]:
        """Policies, sampler, and what the sampler's options choose."""
        for name in self.policies:
            yield Part.named("policy", name)
        yield from self._acting(settings)

    def _acting(self, settings: Mapping[str, Any]) -> Iterator[Part]:
        """The sampler, and what its options choose."""
        yield Part.named("sampler", self.sampler)
        defaults = {k: v.default for k, v in Part.named("sampler", self.sampler).fields.items()}
        yield from self._chosen({**defaults, **self.options, **settings})

    def _chosen(self, options: Mapping[str, Any]) -> list[Part]:
        """The parts that `options` of the sampler name, such as its rule."""
        fields = Part.named("sampler", self.sampler).fields
        bound = {name: fields[name].bound for name in options if name in fields}
        return [Part.named(b.kind, options[k]) for k, b in bound.items() if isinstance(b, Names)]


class _Table(MutableMapping[str, Method]):
    """Name -> row. The files of methods load when it is first read."""

    def __init__(self) -> None:
        self.known: dict[str, Method] = {}
        self._checked: set[str] = set()

    def _load(self) -> None:
        """Loads the files, and checks the rows that are new. Raises `UserError` that names the row."""
        Part.load()
        for name in self.known.keys() - self._checked:
            self._checked.add(name)
            try:
                self.known[name].check()
            except UserError as error:
                self._checked.remove(name)
                raise UserError(
                    f"method {name!r}: {error}: mend or uninstall the package that adds it"
                ) from error

    def __getitem__(self, name: str) -> Method:
        self._load()
        return self.known[name]

    def __setitem__(self, name: str, row: Method) -> None:
        self.known[name] = row

    def __delitem__(self, name: str) -> None:
        del self.known[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self.known)

    def __len__(self) -> int:
        self._load()
        return len(self.known)


METHODS = _Table()


def row(name: str, about: str, source: str, **fields: Any) -> Method:
    """Adds a method to the table; `fields` are those of `Method`. Other packages call it too.

    Raises `ValueError` for a name that the command line could not write, and for a second row of one
    name.
    """
    if not name.isidentifier():
        raise ValueError(f"method {name!r}: a name has letters, digits and underscores alone")
    made = Method(name, about, source, **fields)
    if METHODS.known.setdefault(name, made) != made:
        raise ValueError(f"there are two methods {name!r}")
    return made


def acting_params(
    params: Mapping[str, Any],
    target_params: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a `Sample` reads: each group's target copy where there is one, else the group itself.

    The entry "online_critic" is the critic without its copy, for networks.ranking=online, and so of
    further critics; "calibration" holds the run's constants, if they are given or stand among
    `target_params`.
    """
    merged = {**params, **target_params}
    online = [name for name in params if name.partition("@")[0] == "critic"]
    merged |= {f"online_{name}": params[name] for name in online}
    return merged | ({"calibration": calibration} if calibration else {})
