"""How a scene looks: its palette, light, weather, lens and sensor. One entry of `APPEARANCES` is half of a domain."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_engine.world.materials import Palette

Range = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """Ranges of the light in a scene; strengths are such that a white surface under strength 1 is just not clipped.

    Attributes:
        sun: strength of the distant light; `sun_height` is how high it stands, in degrees.
        ambient: strength of the light from everywhere.
        lamps: strength of each lamp that the scene has; `headlamp` is one beside the camera.
        zenith, horizon: colours of the sky; `clouds` is how much of it they cover, `stars` how bright they are.
    """

    sun: Range = (0.4, 1.0)
    sun_height: Range = (30.0, 75.0)
    sun_colour: Colour = (1.0, 0.96, 0.88)
    ambient: Range = (0.45, 0.8)
    ambient_colour: Colour = (0.95, 0.98, 1.0)
    lamps: Range = (0.0, 0.25)
    headlamp: Range = (0.0, 0.0)
    lamp_colour: Colour = (1.0, 0.85, 0.6)
    zenith: Colour = (0.2, 0.4, 0.85)
    horizon: Colour = (0.65, 0.78, 0.92)
    clouds: Range = (0.0, 0.8)
    stars: float = 0.0


@dataclass(frozen=True)
class Air:
    """Haze: `thickness` is how many times the light of things at the scene's usual distance falls by e; `patches` is
    how uneven it is (0 to 1), so that how hazy a thing looks does not simply tell how far it is."""

    thickness: Range = (0.0, 0.1)
    patches: Range = (0.0, 0.3)
    colour: Colour = (0.75, 0.8, 0.85)


@dataclass(frozen=True)
class Sensor:
    """Ranges of what lens and sensor do: exposure (factor), white balance (how far red and blue stray), noise (of the
    full range), blur (sigma in pixels at 168 rows), vignette (loss in the corners), and how much colour is left."""

    exposure: Range = (0.85, 1.2)
    balance: float = 0.06
    noise: Range = (0.0, 0.015)
    blur: Range = (0.0, 0.5)
    vignette: Range = (0.0, 0.15)
    colour: Range = (1.0, 1.0)
    contrast: Range = (0.95, 1.05)


@dataclass(frozen=True)
class Appearance:
    """Everything about a domain that is not its geometry; `clutter` multiplies the number of loose things, `view` and
    `roll` are the camera's angles in degrees."""

    palette: Palette = field(default_factory=Palette)
    light: Light = field(default_factory=Light)
    air: Air = field(default_factory=Air)
    sensor: Sensor = field(default_factory=Sensor)
    clutter: Range = (0.7, 1.3)
    view: Range = (50.0, 85.0)
    roll: float = 5.0


APPEARANCES: dict[str, Appearance] = {
    "day": Appearance(),
    "dusk": Appearance(
        palette=Palette(hue_freedom=0.1, contrast=(0.2, 0.5)),
        light=Light(
            sun=(0.5, 0.9),
            sun_height=(6.0, 20.0),
            sun_colour=(1.0, 0.55, 0.25),
            ambient=(0.12, 0.25),
            ambient_colour=(0.65, 0.6, 0.95),
            lamps=(0.0, 0.5),
            zenith=(0.12, 0.14, 0.4),
            horizon=(0.95, 0.5, 0.25),
        ),
        air=Air(thickness=(0.0, 0.35), colour=(0.85, 0.55, 0.4)),
        sensor=Sensor(exposure=(0.7, 1.3), balance=0.12, noise=(0.0, 0.03)),
    ),
    "night": Appearance(
        palette=Palette(hue_freedom=0.1),
        light=Light(
            sun=(0.0, 0.06),
            sun_colour=(0.6, 0.7, 1.0),
            ambient=(0.02, 0.08),
            ambient_colour=(0.5, 0.6, 1.0),
            lamps=(0.6, 1.4),
            headlamp=(0.0, 0.35),
            lamp_colour=(1.0, 0.7, 0.35),
            zenith=(0.004, 0.006, 0.02),
            horizon=(0.03, 0.03, 0.06),
            stars=1.0,
        ),
        air=Air(thickness=(0.0, 0.3), colour=(0.03, 0.03, 0.04)),
        sensor=Sensor(exposure=(0.6, 1.6), balance=0.15, noise=(0.015, 0.06), blur=(0.2, 0.9), vignette=(0.0, 0.4)),
    ),
    "fog": Appearance(
        light=Light(
            sun=(0.0, 0.15),
            ambient=(0.6, 0.9),
            ambient_colour=(0.95, 0.97, 1.0),
            zenith=(0.68, 0.7, 0.72),
            horizon=(0.72, 0.74, 0.76),
            clouds=(0.0, 0.3),
        ),
        air=Air(thickness=(0.5, 1.6), patches=(0.3, 0.9), colour=(0.7, 0.72, 0.74)),
        sensor=Sensor(exposure=(0.7, 1.15), balance=0.1, noise=(0.0, 0.03), blur=(0.2, 0.9), contrast=(0.8, 1.0)),
    ),
    "vivid": Appearance(
        palette=Palette(hue_freedom=0.9, pattern_freedom=0.7, saturation=1.5, contrast=(0.4, 0.95), grain=(0.1, 0.4)),
        light=Light(
            sun=(0.1, 0.8), ambient=(0.25, 0.7), lamps=(0.0, 0.5), zenith=(0.6, 0.2, 0.6), horizon=(0.95, 0.8, 0.5)
        ),
        sensor=Sensor(balance=0.2, contrast=(1.0, 1.3)),
        clutter=(0.9, 1.7),
    ),
    "old": Appearance(
        palette=Palette(contrast=(0.25, 0.6), grain=(0.1, 0.4)),
        light=Light(
            sun=(0.1, 1.0), sun_height=(10.0, 75.0), ambient=(0.15, 0.6), lamps=(0.0, 0.6), zenith=(0.75, 0.78, 0.8)
        ),
        air=Air(thickness=(0.0, 0.3)),
        sensor=Sensor(
            exposure=(0.7, 1.5),
            noise=(0.02, 0.08),
            blur=(0.4, 1.2),
            vignette=(0.2, 0.6),
            colour=(0.0, 0.15),
            contrast=(0.8, 1.5),
        ),
    ),
    "wild": Appearance(
        palette=Palette(hue_freedom=0.3, pattern_freedom=0.2, contrast=(0.2, 0.6)),
        light=Light(sun=(0.2, 0.9), sun_height=(15.0, 80.0), ambient=(0.2, 0.6), lamps=(0.0, 0.6)),
        sensor=Sensor(exposure=(0.6, 1.6), balance=0.15, noise=(0.0, 0.04), blur=(0.0, 1.0)),
        clutter=(1.4, 2.2),
        view=(65.0, 105.0),
        roll=18.0,
    ),
}
"""day: clean materials in soft light. dusk: a low warm sun. night: lamps, dark, noise. fog: uneven haze. vivid: any
colour and pattern. old: grey photographs. wild: a wide lens held askew among many things."""
