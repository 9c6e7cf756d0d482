"""The texts of the recipe `dcgan` that its copies replace; see `common.runs.omissions`."""

from __future__ import annotations

import re

Texts = dict[str | re.Pattern[str], str]

UNCONDITIONAL: Texts = {  # the networks and the training step, without labels
    re.compile(r"Labels   class indices.*\n.*\n"): "",
    re.compile(r"         5\. With `--conditional concat`.*\n.*\n"): "",
    re.compile(r"#\n# With `conditional`, the data .*\n.*\n"): "",
    re.compile(r"#\n# A conditional GAN gives .*\n(?:# .*\n)*"): "",
    "    # With `conditional`, labels [n, outputs] are a second input of both.\n": "",
    re.compile(
        r"    latents, labels = (keras.Input\(\(config.latent_dim,\), name=\"latents\"\)).*\n.*\n.*\n"
    ): r"""    latents = \1
    x = latents
""",
    re.compile(r"    if config.conditional == \"\w+\":.*\n(?:        .*\n)+"): "",
    re.compile(r"def with_labels\((?:.*\n)*?\n\n"): "",
    re.compile(r"with_labels\((\w+), (?:vectors|\[\*vectors\])\)"): r"\1",
    ", *vectors: tf.Tensor": "",
    ", and with `conditional` also integer labels [batch]": "",
    " | np.ndarray | tuple[np.ndarray, np.ndarray],\n    config": " | np.ndarray,\n    config",
    "real: tf.Tensor, *labels: tf.Tensor": "real: tf.Tensor",
    re.compile(r"        vectors = \[tf.one_hot\(each, .*\n"): "",
    re.compile(r"                pairs = zip.*\n.*\n"): """\
                some = tf.concat([real[:count], fake[:count]], axis=0)
""",
    "squared_gradient(discriminator, *some)": "squared_gradient(discriminator, some)",
    "    labels: np.ndarray | None = None,\n": "",
    re.compile(r" A\n    conditional generator generates .*\n    in turn\."): "",
    re.compile(r"    if len\(generator.inputs\) == 1:\n(?:.*\n)*?(?=    total = )"): "",
    "        part = latents[start : start + 100]\n": "",
    re.compile(r"        vectors = \[\] if label .*\n"): "",
    "generator(part, training": "generator(latents[start : start + 100], training",
    ", label: int = 0) -> np.ndarray:": ") -> np.ndarray:",
    re.compile(r"(?<=\*image_shape\]\.)\n\n    `label` is .*\n    (?=\"\"\")"): "",
    re.compile(r"    vectors = \[tf.one_hot\(\[label\].*\n"): "",
    "with_labels(tf.constant(latents, tf.float32), vectors)": "latents.astype(np.float32)",
}
NO_CLASSES: Texts = {  # the commands without `--class`
    re.compile(r"         python \S+ generate \S+ --class .*\n"): "",
    re.compile(r"# A conditional run is also scored by .*\n.*\n#\n"): "",
    '    classes = config.conditional != "none"\n': "",
    re.compile(r"    config = replace\(config, outputs=len.*\n"): "",
    ", fetch, classes=classes)": ", fetch)",
    "images.classes": "",
    re.compile(r"    columns = min\(10, .*\n"): "",
    "selected(8 * columns)": "selected(64)",
    ", columns=columns, zoom=2)": ", zoom=2)",
    re.compile(r" `class_` is the\n    name or index .* in turn\."): "",
    re.compile(r"\n\n    `class_` is the name .* first class\.\n    (?=\"\"\")"): "",
    "    trained, generator, label = load(run, class_)\n    config = trained.config\n": """\
    trained = Run.load(run, "dcgan", Config)
    generator = trained.network("generator", (trained.config.latent_dim,), trained.image_shape)
""",
    "    keep = keep or config.keep\n": "    keep = keep or trained.config.keep\n",
    re.compile(r"    vectors = \[\] if config.conditional .*\n"): "",
    "with_labels(trained.image_shape, vectors)": "trained.image_shape",
    ", None if label < 0 else np.full(count, label))": ")",
    ", columns=min(10, config.outputs) if vectors and label < 0 else 8)": ")",
    re.compile(
        r"    _, generator, label = load\(.*\n(    images = walk\(.*), max\(0, label\)\)"
    ): r"""    trained = Run.load(run, "dcgan", Config)
    generator = trained.network("generator", (trained.config.latent_dim,), trained.image_shape)
\1)""",
    re.compile(r"^def load\((?:.*\n)*?\n\n", re.MULTILINE): "",
}
