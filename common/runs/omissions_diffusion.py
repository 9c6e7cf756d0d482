"""The texts of the recipe `diffusion` that its copies replace; see `common.runs.omissions`."""

from __future__ import annotations

import re

Texts = dict[str | re.Pattern[str], str]

NO_FACES: Texts = {
    re.compile(r"         python \S+ train --preset faces .*\n"): "",
    re.compile(r"# With 3 channels \(`--preset faces`\).*\n(?:# .*\n)*#\n"): "",
    ' if config.channels == 1 else "face_classes"': "",
    "`DIGITS` and `FACES` are smaller ones.": "`DIGITS` is for 28 px digits, such as MNIST.",
}
NO_INPAINTING: Texts = {  # without inpainting and animations
    re.compile(r"         python \S+ (generate \S+\.gif|inpaint) .*\n"): "",
    "    known: tf.Tensor | None = None,\n    masks: np.ndarray | None = None,\n": "",
    "        image = image if masks is None else tf.where(masks, image, known)\n": "",
    re.compile(r"#\n# `inpaint` replaces .*\n(?:# .*\n)*"): "",
    re.compile(r"# `edit` is SDEdit .*\n(?:# .*\n)+\n\n"): "",
    """images, uint8 [n, size, size, channels], into similar images of a class, or of any class (-1).""": (
        "images into similar images of a class: SDEdit (Meng et al., ICLR 2022, arXiv:2108.01073)."
    ),
    re.compile(r"; as \.gif or \.mp4, an animation[^.]*"): "",
    re.compile(r"    if destination.suffix.lower\(\) in .*\n(?:        .*\n)+"): "",
    re.compile(r"    run_command\(\n(?:        .*\n)*    \)\n"): """\
    run_command(demo, presets=presets, train=run, generate=generate_file, edit=edit_file)
""",
    re.compile(r"^Guidance = .*\nSteps = .*\nSeed = .*\n\n\n", re.MULTILINE): "",
    re.compile(r"(?<=: )(Steps|Seed)(?= = )"): "int",
    re.compile(r"(?<=: )Guidance(?= = )"): "float",
}
ONLY_TRAINING: Texts = {  # a bare copy: without what only the other functions use
    re.compile(r"def one_hot\((?:.*\n)*?(?=def noise_of\()"): "",
    re.compile(r"# `edit` is SDEdit .*\n(?:#.*\n)+\n\n"): "",
}
FLOW_MATCHING: Texts = {  # without denoising diffusion
    re.compile(r" With `--objective ddpm`: (?:.*\n)*?.*(?=Classifier-free)"): "\n         ",
    re.compile(r"         3\. With `--objective ddpm`.*\n.*\n"): "",
    re.compile(r"         4\. (The optimizer .* linearly\.) Dropout is not used\."): r"         3. \1",
    ", config.objective": "",
    "guidance: float, objective: str):": "guidance: float):",
    re.compile(r"def signal_and_noise\((?:.*\n)*?(?=def mix\()"): "",
    """t, objective: str):
    \"""Return the point of the path at times t [n, 1]: a(t) image + b(t) noise.\"""
    a, b = signal_and_noise(t[:, :, None, None], objective)
    return a * image + b * noise
""": """t):
    \"""Return the point of the path at times t [n, 1]: t image + (1 - t) noise.\"""
    t = t[:, :, None, None]
    return t * image + (1 - t) * noise
""",
    re.compile(r"def target\((?:.*\n)*?(?=def precondition\()"): "",
    re.compile(r"def regression_loss\((?:.*\n)*?(?=def train\()"): "",
    "regression_loss(prediction, images, random)": "tf.reduce_mean(tf.square(prediction - (images - random)))",
    "output, t, objective: str):": "output, t):",
    re.compile(r"    a, b = signal_and_noise\(t, objective\)\n(?:    .*\n)*?(?=\n)"): """\
    s = 0.5  # standard deviation of the images
    variance = (t * s) ** 2 + (1 - t) ** 2  # of x
    return (t * s**2 - (1 - t)) / variance * x + s / keras.ops.sqrt(variance) * output
""",
    "    return separate(x, prediction, t, objective)\n": """\
    t = t[:, :, None, None]
    return x + (1 - t) * prediction, x - t * prediction
""",
}
SHORTER_SAMPLER: Texts = {  # no scores of held-out images, and one function that generates images
    re.compile(r"        return data\.diversity\(.*\n"): "",
    re.compile(r"(?<=losses: dict\[str, float\]\) -> )dict\[str, float\](?=:\n        some =)"): "None",
    re.compile(r"    if len\(labels\) == 0:\n(?:    .*\n)+?    return np.concatenate\(parts\)\n"): """\
    return form(network, labels, config, seed)[-1]
""",
    "    predict = compiled(network)\n": "    compute = compiled(network)\n",  # the kit has a function `predict`
    "estimate(predict, ": "estimate(compute, ",
    """        image, noise = estimate(""": """        x = mix(*estimate(""",
    re.compile(r", config.guidance\)\n        x = mix\(image, noise, later \* ones\)\n        yield x, image"): (
        ", config.guidance), later * ones)\n        yield x"
    ),
    "After each step, yield the new x and the predicted image.": "After each step, yield the new x.",
    "Iterator[tuple[tf.Tensor, tf.Tensor]]": "Iterator[tf.Tensor]",
    re.compile(r"def one_hot\((?:.*\n)*?(?=def noise_of\()"): "",
    re.compile(r"    return np.stack\(\n.*\n    \)\n"): """\
    states = [x, *follow(network, x, tf.one_hot(labels, config.outputs), config)]
    return np.stack([*map(to_uint8, states)])
""",
    "    config: Config = Config(),\n    strength": "    config: Config,\n    strength",
    re.compile(r"    start = 1 - strength\n(?:    .*\n)*?(?=    shorter)"): """\
    x = mix(from_uint8(images), noise_of(seed, len(images), config), tf.fill((len(images), 1), 1 - strength))
""",
    re.compile(r"    \*_, \(x, _\) = follow\(network, x, one_hot\(.*, shorter, start\)\n"): """\
    *_, x = follow(network, x, tf.one_hot(np.full(len(images), label), config.outputs), shorter, 1 - strength)
""",
    re.compile(
        r"    columns = min\(10, .*\n(.*)np.tile\(np.arange\(columns\), 5\), config\)\n"
        r"    rows = .*\n.*\n    image = .*\n"
    ): r"""\1np.arange(10) % config.outputs, config)
    shown = np.concatenate(states[np.linspace(0, config.steps, 5).astype(int)])
    image = save_image(shown, Path(output_dir, "samples.png"), columns=10, zoom=2)
""",
}
