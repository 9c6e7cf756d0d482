"""The parts of recipes that copies leave out.

`EVERYWHERE` lists options for several devices; no copy has these options. `COPIES` and `BARE` keep the copies of long
recipes short: they list secondary commands and options, with the code that only these use.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from common.runs.omissions_dcgan import NO_CLASSES, UNCONDITIONAL
from common.runs.omissions_diffusion import FLOW_MATCHING, NO_FACES, NO_INPAINTING, ONLY_TRAINING, SHORTER_SAMPLER
from common.runs.syntax import Edits, name_of, parameters_of

EVERYWHERE = {"synchronized", ".synchronized", ".check_networks"}  # several devices, and checks of your own networks


Texts = dict[str | re.Pattern[str], str]  # code, or a pattern for prose -> its replacement


class Omissions(NamedTuple):
    """The parts of a recipe that a copy leaves out."""

    names: str = ""  # separated by spaces: functions, constants, parameters, `.methods`, and `config.fields`
    texts: Texts = {}
    ranges: bool = True  # whether options keep their ranges


SHORTER_STEP: Texts = {  # CycleGAN: a shorter training step
    """        self.learning_rate = learning_rate
        self.steps = steps
""": """        self.learning_rate, self.steps = learning_rate, steps
""",
    """    def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
        return adversarial_loss(1.0, fake_logits, config.loss)

""": "",
    " = generator_loss(": " = adversarial_loss(1.0, ",
    """        real_loss = adversarial_loss(1.0, real_logits, config.loss)
        fake_loss = adversarial_loss(0.0, fake_logits, config.loss)
        return 0.5 * (real_loss + fake_loss)  # halved, so the discriminators learn more slowly (appendix 7.1)
""": """        # Halved, so the discriminators learn more slowly (appendix 7.1).
        return 0.5 * (adversarial_loss(1.0, real_logits) + adversarial_loss(0.0, fake_logits))
""",
    """            if config.identity_weight:  # translation and identity mapping in one call
                fake_b, same_b = tf.split(generator_a2b(tf.concat([a, b], 0), training=True), 2)
                fake_a, same_a = tf.split(generator_b2a(tf.concat([b, a], 0), training=True), 2)
            else:
                fake_b, same_b = generator_a2b(a, training=True), b
                fake_a, same_a = generator_b2a(b, training=True), a
""": """            # Translation and identity mapping in one call.
            fake_b, same_b = tf.split(generator_a2b(tf.concat([a, b], 0), training=True), 2)
            fake_a, same_a = tf.split(generator_b2a(tf.concat([b, a], 0), training=True), 2)
""",
    """        g_gradients = g_tape.gradient(g_scaled, g_variables)
        d_gradients = d_tape.gradient(d_scaled, d_variables)
        g_optimizer.apply(g_gradients, g_variables)
        d_optimizer.apply(d_gradients, d_variables)
""": """        g_optimizer.apply(g_tape.gradient(g_scaled, g_variables), g_variables)
        d_optimizer.apply(d_tape.gradient(d_scaled, d_variables), d_variables)
""",
    """    g_optimizer = adam(learning_rate, g_variables, config.beta_1)
    d_optimizer = adam(learning_rate, d_variables, config.beta_1)
""": """    g_optimizer, d_optimizer = (adam(learning_rate, each, config.beta_1) for each in (g_variables, d_variables))
""",
    """        a = from_uint8(batch_a)
        b = from_uint8(batch_b)
""": """        a, b = from_uint8(batch_a), from_uint8(batch_b)
""",
}
LEAST_SQUARES: Texts = {  # CycleGAN: without the cross-entropy loss
    re.compile("least squares or [a-z -]*cross[ -]entropy loss"): "least squares loss",
    """    if kind == "least_squares":
        return tf.reduce_mean((logits - target) ** 2)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), target), logits))
""": """    return tf.reduce_mean((logits - target) ** 2)
""",
}
ONE_POOL: Texts = {  # CycleGAN: image pools for one device
    re.compile(r" With several devices, [^.]*\."): "",
    """        options = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,  # checkpoints store one pool
        }
        return cls(tf.Variable(tf.zeros((pool_size, size, size, 3)), **options), tf.Variable(0, **options))
""": """        images = tf.zeros((pool_size, size, size, 3))
        return cls(tf.Variable(images, trainable=False), tf.Variable(0, trainable=False))
""",
}
NO_SWISS_ROLL: Texts = {  # adversarial autoencoder: without the prior `swiss_roll`
    re.compile(r"( or|,) mixture \(petals\) or swiss_roll"): " or mixture (petals)",
    re.compile(r", or one segment of the [\w ]*roll"): "",
    '"mixture", "swiss_roll"]': '"mixture"]',
    re.compile(
        r"""        if config.prior == "mixture":
    (        angle = .*\n)    (        radius = .*\n)        else:.*\n(?:            .*\n)+"""
    ): r"\1\2",
}
FEWER_SCORES: Texts = {  # adversarial autoencoder: fewer scores, and no figure of the prior
    """    prior_classes = np.arange(len(labels)) % config.outputs
    prior = prior_samples(prior_classes, config, Noise(1)).numpy()
    points = np.concatenate([prior[:, :2], codes[:, :2] + [7 * config.prior_stddev, 0]])
    title = "First two coordinates. Left: samples of the prior. Right: codes of test images."
    labelled.save_latents(points, np.concatenate([prior_classes, labels]), Path(output_dir, "prior.png"), title)
""": "",
    """        found = labelled.knn_agreement(codes, images, labels)
        if labelled.styles and config.labels in ("decoder", "few"):
            found |= style_correlations(style_directions(networks.decoder, config), codes, labelled.styles)
        if config.labels == "few":
            known = labelled.train.loaded(config.labelled)
            found |= classification_errors(networks, config, known, *labelled.test.loaded(10_000))
        return found
""": """        if config.labels != "few":
            return {}
        return {"test_accuracy": float(np.mean(classify(networks.encoder, images, config).argmax(axis=1) == labels))}
""",
}
FEATURE_MATCHING: Texts = {  # semi-supervised GAN: one generator loss instead of two, and no supervised baseline
    """            if config.feature_matching:
                g_loss = feature_matching_loss(real_features, fake_features)
            else:
                g_loss = generator_loss(fake)
""": """            g_loss = feature_matching_loss(real_features, fake_features)
""",
    """        diversity = {} if config.feature_matching else data.diversity(functools.partial(generate, generator))
        return {"validation_accuracy": float(np.mean(correct))} | diversity
""": """        return {"validation_accuracy": float(np.mean(correct))}
""",
    """    healthy = {} if config.feature_matching else gan_ranges
""": "",
    re.compile(r"(    plain = .*\n){2}"): "",
    '"plain": plain, ': "",
    """
    def evaluate() -> dict[str, float]:
        steps = min(2000, config.epochs * unlabelled.steps_per_epoch)
        baseline = supervised_baseline(config, labelled, steps)
        found = np.concatenate([classify(baseline, part, config.mirror) for part in images.test.in_order()])
        accuracy = float(np.mean(found.argmax(axis=1) == images.test.labels))
        return {"test_accuracy_from_labels_alone": accuracy} | scores

    return folder.finish(networks, evaluate, figure)
""": """    return folder.finish(networks, lambda: scores, figure)
""",
}
PAPER_NETWORKS: Texts = {  # CycleGAN and FGSM: without your own networks
    re.compile(r"(?<=def build\()\s*config: Config = Config\(\), [^)]*(?=\))"): "config: Config = Config()",
    re.compile(r" Each (generator )?may be your own[^.]*\."): "",
    re.compile(r"\b(a2b|b2a|classifier|robust) or (?=\w+\()"): "",
}
ATTACK_RUNS: Texts = {  # FGSM: attack only networks of a run, not those of Keras Applications
    re.compile("attack .* --weights imagenet .*"): "train --data DIR --output-dir runs/mine    one folder per class",
    re.compile("--network .* --weights FILE .*"): "--label coat --run runs/mine",
    """    network: str = "NASNetMobile",
    weights: str = "",
    preprocessing: str = "",
    classes: str = "",
""": "",
    re.compile("         python .* --preprocessing 0.*\\n"): "",
    """    if weights or network.endswith(".keras"):
        attacked = Classifier.load(network, weights, fetch, preprocessing, classes)
    else:
        attacked = Classifier.of_run(Run.load(run, "fgsm", Config), "robust" if robust else "classifier")
""": """    attacked = Classifier.of_run(Run.load(run, "fgsm", Config), "robust" if robust else "classifier")
""",
}
NO_OWN_CLASSIFIER: Texts = {  # targeted attack: without your own Keras file
    re.compile(r"         python .* --preprocessing 0.*\n"): "",
    ", FILE.keras\n": "\n",
    re.compile(r"    preprocessing: str = .*\n    classes: str = .*\n"): "",
    "    own, classes = config.preprocessing, config.classes\n": "",
    ", fetch, own, classes)": ", fetch)",
}
SIMPLE_FEATURES: Texts = {"NASNetMobile, ": ""}  # copies cannot rebuild this network for images of any size
NO_IMAGES_IN_PLOTS: Texts = {  # convolutional autoencoder: points instead of images in the plot of the latents
    """points, point_labels, shown = (evenly_spaced(each, count) for each in (latents, labels, images))
""": """points, point_labels = evenly_spaced(latents, count), evenly_spaced(labels, count)
""",
    "title, config.seed, shown)": "title, config.seed)",
}
SHIFTS: Texts = {  # DCGAN of faces: shifts are the only augmentation
    re.compile(r", `colour` changes its colours, and\s+(?:# )?`cutout`\s+(?:# )?blanks a square"): "",
    "options below `cutout`": "options below `translation`",
}
NO_DIVERSITY: Texts = {  # DCGAN of faces
    re.compile(r"[ \n#]+`diversity`[ \n#]+is[ \n#]+the.*?real[ \n#]+images\.", re.DOTALL): "",
    re.compile(r"[ \n#]+In[ \n#]+the[ \n#]+first[ \n#]+epochs.*?0\.5[ \n#]+and[ \n#]+1\.", re.DOTALL): "",
    "return data.diversity(lambda count: generate(ema, sample_latents(ema, range(count))))": "return {}",
}
NO_VALIDATION_PROSE: Texts = {  # Pix2Pix
    re.compile(r" `validation_l1` \(for pixels[^.]*\.[^.]*\."): "",
}
NO_VALIDATION: Texts = NO_VALIDATION_PROSE | {  # Pix2Pix: example images, but no scores of held-out pairs in training
    """    def validate(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        if not data.held_out:
            return {}
        inputs, targets = (images[:: max(1, len(images) // 32)][:32] for images in data.held_out)
        translations = translate_batch(generator, inputs)
        if output_dir is not None:
            save_pairs(Path(output_dir, "samples", f"epoch-{epoch:04d}.png"), inputs, targets, translations)
        scores = pair_scores(targets, translations)
        return {"validation_l1": scores["l1"], "validation_ssim": scores["ssim"]}
""": """    def sample(epoch: int, losses: dict[str, float]) -> None:
        if output_dir is not None and data.held_out:
            inputs, targets = (images[:: max(1, len(images) // 8)][:8] for images in data.held_out)
            path = Path(output_dir, "samples", f"epoch-{epoch:04d}.png")
            save_pairs(path, inputs, targets, translate_batch(generator, inputs))
""",
    "on_epoch=[validate, on_epoch]": "on_epoch=[sample, on_epoch]",
}
NO_STREETS: Texts = {  # Pix2Pix: without the second built-in data set
    re.compile(r"         python \S+ train --data streets .*\n"): "",
    re.compile(r" `--data streets` selects[^.]*\.\n?[^.]*\."): "",
    ", trained.half)": ")",
}
UNCHECKED_NETWORKS: Texts = {  # face swap: the networks of a run, without a check of their shapes
    """    config, latent = trained.config, (trained.config.latent_dim,)
    inter = trained.network("inter", latent)
    codes = inter.output_shape[1:]
    networks = Networks(
        encoder=trained.network("encoder", trained.image_shape, latent),
        inter=inter,
        decoder_a=trained.network("decoder_a", codes, trained.image_shape),
        decoder_b=trained.network("decoder_b", codes, trained.image_shape),
    )
""": """    config, networks = trained.config, Networks(*map(trained.network, Networks._fields))
""",
}
NO_SAMPLES: Texts = {  # VAE of faces: without new faces; edits of the first test face
    re.compile(r"        chosen = faces.well_copied.*\n"): "",
    "changed_attributes(networks, space, images[chosen], labels[chosen])": (
        "latent_traversals(networks, space, images[0])"
    ),
    "images, labels = faces.test.loaded(2000)": "images = faces.test.loaded(2000)[0]",
    """    fitted, prior = generate(networks.decoder, 8, 1, space), generate(networks.decoder, 8, 1)
    save_image({"fitted normal": fitted, "prior N(0, I)": prior}, Path(output_dir, "samples.png"))
""": "",
    re.compile(r"`SMALL` is for 64 px, `DEMO` for"): "`DEMO` is for",
}
ONLY_VECTORS: Texts = {  # VAE of faces: edits add vectors, but do not match covariances
    """ An edit also
            matches the covariance of the latents: hats vary more than the hair below them.""": "",
    re.compile(r"# A vector alone cannot .*\n(?:# .*\n)*#\n"): "",
    re.compile(r"    maps: np.ndarray .*\n    without: np.ndarray .*\n"): "",
    "    vectors = attribute_vectors(latents, labels)\n": "",
    re.compile(r"    frequencies = .*\n    without = .*\n"): "",
    "vectors, covariance_maps(latents, labels), without, mean": "attribute_vectors(latents, labels), mean",
    re.compile(r'\n\n    From 0 to 1 \(or -1\).*\n    """\n(?:.*\n)*?    return result\n'): """\"\"\"
    return latents + np.asarray(strengths, np.float32) @ space.vectors
""",
    re.compile(r"    latents = trained.config.latent_dim\n(?:.*\n)*?(?=    return Networks)"): """\
    encoder, decoder = map(trained.network, Networks._fields)
    space = LatentSpace(**trained.arrays("space"))
""",
    re.compile(r"    similar = .*\n    meant = .*\n"): "",
    "attribute {name!r}{meant}; choose": "attribute {name!r}; choose",
}
HELD_OUT_PROSE: Texts = {  # autoencoders with a prior: the paragraph on the losses of held-out images
    re.compile(r"#\n# `validation_reconstruction` .*\n(?:# .*\n)*"): "",
}
HELD_OUT: Texts = HELD_OUT_PROSE | {  # no losses of held-out images
    re.compile(r"    def validate\(.*\n(?:(?: {8}.*)?\n)*(?=    state = )"): "",
    "[sample, validate, on_epoch]": "[sample, on_epoch]",
}
ONE_GRID: Texts = {  # VAE: generated images only as a grid
    "    singles: bool = False,\n": "",
    "a grid of generated images or, with `singles`, one PNG file per image to the folder `destination`.": (
        "a grid of generated images."
    ),
    """    images = generate(decoder, count, seed)
    if not singles:
        return save_image(images, destination)
    for number, image in enumerate(images):
        save_image(image, destination / f"{number:06d}.png")
    return destination
""": """    return save_image(generate(decoder, count, seed), destination)
""",
}
NO_PATIENCE: Texts = {  # VAE of faces: the last weights are kept
    re.compile(r" With a `patience` above 0[^.]*\."): "",
    re.compile(r"    best = .*\n    calls = (.*)\n(    return fit.*on_epoch=)calls, .*\n"): r"\2\1)\n",
}
LOOP_OPTIONS = "steps_per_epoch on_epoch"  # parameters of `train`
EIGHT_AT_A_TIME: Texts = {  # CycleGAN: the same batches for images of any size
    re.compile(r"    yosemite = .*\n    presets = .*\n(    run_command\(demo, presets=)presets"): (
        r'\1{"paper": Config(), "demo": DEMO}'
    ),
    ": eight at a time, or fewer above 512 px": ", eight at a time",
    "    count = max(1, min(8, 8 * 512**2 // images[0, ..., 0].size))\n": "",
    "images[start : start + count]) for start in range(0, len(images), count)": (
        "images[start : start + 8]) for start in range(0, len(images), 8)"
    ),
}
COPIES = {  # by recipe
    "adversarial_autoencoder": Omissions(
        f"{LOOP_OPTIONS} generate_file table classification_errors style_correlations PAPER",
        NO_SWISS_ROLL | FEWER_SCORES | HELD_OUT,
        ranges=False,
    ),
    "conv_autoencoder": Omissions(texts=NO_IMAGES_IN_PLOTS),
    "cyclegan": Omissions(
        f"{LOOP_OPTIONS} kind config.loss crop",
        PAPER_NETWORKS | SHORTER_STEP | LEAST_SQUARES | ONE_POOL | EIGHT_AT_A_TIME,
        ranges=False,
    ),
    "dcgan": Omissions(
        f"{LOOP_OPTIONS} config.conditional config.outputs class_", UNCONDITIONAL | NO_CLASSES, ranges=False
    ),
    "dcgan_faces": Omissions(
        f"{LOOP_OPTIONS} arithmetic_file walk_file walk config.images .images colour .colour cutout .cutout",
        SHIFTS | NO_DIVERSITY,
        ranges=False,
    ),
    "deepdream": Omissions(texts=SIMPLE_FEATURES),
    "diffusion": Omissions(
        f"{LOOP_OPTIONS} FACES walk walk_file inpaint inpaint_file config.objective",
        NO_FACES | NO_INPAINTING | FLOW_MATCHING | SHORTER_SAMPLER,
        ranges=False,
    ),
    "face_swap": Omissions(LOOP_OPTIONS, UNCHECKED_NETWORKS, ranges=False),
    "fast_style_transfer": Omissions(LOOP_OPTIONS, SIMPLE_FEATURES, ranges=False),
    "fgsm": Omissions(f"{LOOP_OPTIONS} evaluate_file", PAPER_NETWORKS | ATTACK_RUNS, ranges=False),
    "pix2pix": Omissions(f"{LOOP_OPTIONS} STREETS crop", NO_STREETS | NO_VALIDATION),
    "ssgan": Omissions(f"{LOOP_OPTIONS} generate_file table config.feature_matching", FEATURE_MATCHING, ranges=False),
    "style_transfer": Omissions(texts=SIMPLE_FEATURES),
    "targeted_attack": Omissions(texts=NO_OWN_CLASSIFIER),
    "vae": Omissions(texts=HELD_OUT | ONE_GRID),
    "vae_faces": Omissions(
        f"{LOOP_OPTIONS} morph_file generate_file generate evaluate changed_attributes SMALL covariance_maps"
        " config.patience held_out_losses",
        NO_SAMPLES | ONLY_VECTORS | HELD_OUT | NO_PATIENCE,
        ranges=False,
    ),
}
NO_PETALS: Texts = {  # adversarial autoencoder: without labels in the discriminator
    re.compile(r"         discriminator  each class .*\n"): "",
    'Literal["none", "discriminator", "decoder", "few"]': 'Literal["none", "decoder", "few"]',
    """    "discriminator": class_prior_losses,
""": "",
}
RESNET: Texts = {  # CycleGAN: only the ResNet generator
    re.compile(r" The 1 x 1 bottleneck\s+of the U-Net [^.]*\."): "",
    re.compile(r"         3\. `upsampling=.*\n.*\n.*\n"): "",
    "upsample(x, width * factor, 3, config, init)": ('layers.Conv2DTranspose(width * factor, 3, 2, "same", **init)(x)'),
    re.compile("in pixels; U-Net: .*"): "in pixels, a multiple of 4",
    "for the ResNet; ": "",
    """    generator = unet if config.generator == "unet" else resnet
""": "",
    "=generator(config": "=resnet(config",
}
L_BFGS: Texts = {  # style transfer: only L-BFGS, and no checkpoints
    re.compile(r"         4\. L-BFGS .*\n"): "",
    re.compile("epochs per size; .*"): "epochs per size",
    """    optimize = by_lbfgs if config.optimizer == "lbfgs" else by_adam
""": "",
    "image = optimize(": "image = by_lbfgs(",
    """            if progress.history and progress.history[-1]["pixels"] > pixels:
                continue
""": "",
    """range(sum(row["pixels"] == pixels for row in progress.history), config.epochs)""": "range(config.epochs)",
}
BARE = {
    "adversarial_autoencoder": Omissions(texts=NO_SWISS_ROLL | NO_PETALS | HELD_OUT_PROSE),
    "cyclegan": Omissions(
        "kind upsample config.upsampling config.levels crop",
        PAPER_NETWORKS | SHORTER_STEP | LEAST_SQUARES | ONE_POOL | RESNET,
    ),
    "dcgan": Omissions("config.conditional config.outputs", UNCONDITIONAL),
    "dcgan_faces": Omissions("colour .colour cutout .cutout", SHIFTS),
    "diffusion": Omissions(texts=ONLY_TRAINING),
    "deepdream": Omissions(texts=SIMPLE_FEATURES),
    "fast_style_transfer": Omissions(texts=SIMPLE_FEATURES),
    "pix2pix": Omissions("crop", NO_VALIDATION_PROSE),
    "style_transfer": Omissions(texts=L_BFGS | SIMPLE_FEATURES),
    "vae": Omissions(texts=HELD_OUT_PROSE),
    "vae_faces": Omissions("config.patience", HELD_OUT_PROSE | NO_PATIENCE),
}


def without(text: str, recipe: str, omissions: Omissions) -> str:
    """Remove the parts in `omissions` from a recipe, and the statements that use them.

    Raises:
        ValueError: the recipe does not contain a text that `omissions` replaces.
    """
    for old, new in omissions.texts.items():
        before, text = text, old.sub(new, text) if isinstance(old, re.Pattern) else text.replace(old, new)
        if text == before:
            raise ValueError(f"recipes/{recipe}.py does not contain this text, which its copies replace: {old!r}")
    if not omissions.ranges:
        text = re.sub(r"Annotated\[([\w.]+), Range\(.*?\)\]", r"\1", text)
    names = {*EVERYWHERE, *omissions.names.split()}
    text = _without_statements(_without_items(text, names), names)
    text = text.replace("functools.partial(layers.BatchNormalization)", "layers.BatchNormalization")
    return _without_loss_scales(text)


def _without_items(text: str, names: set[str]) -> str:
    """Remove definitions, fields, parameters and arguments by name."""
    edits = Edits(text)
    commands = "|".join(_commands(edits.tree, names)) or "$"
    for node in edits.tree.body:
        if name_of(node) in names:
            edits.remove(node)
        elif isinstance(node, ast.ClassDef) and node.name == "Config":
            for field in node.body:
                if {name_of(field), f"config.{name_of(field)}"} & names:
                    edits.remove(field)
    edits = Edits(edits.text())
    for part in ast.walk(edits.tree):
        if isinstance(part, ast.FunctionDef):
            parameters = parameters_of(part)
            edits.keep([(first, last) for _, first, last in parameters], [name not in names for name, *_ in parameters])
        elif isinstance(part, ast.Call):
            items: list[ast.AST] = [*part.args, *part.keywords]
            deep = ast.unparse(part.func).rpartition(".")[2] in ("run_command", "finish")
            edits.keep([(each, each) for each in items], [not _uses(each, names, deep) for each in items])
        elif isinstance(part, ast.List):
            edits.keep([(each, each) for each in part.elts], [not _uses(each, names) for each in part.elts])
        elif isinstance(part, ast.Dict):
            pairs = [(key or value, value) for key, value in zip(part.keys, part.values, strict=True)]
            edits.keep(pairs, [not _uses(value, names) for _, value in pairs])
    text = re.sub(r"^( +)\*,?\n(?=\) ->)", "", edits.text(), flags=re.MULTILINE)
    text = re.sub(rf"^(?:Run     |        ) python \S+ (?:{commands}) .*\n", "", text, flags=re.MULTILINE)
    return re.sub(rf"^( +)(?:{'|'.join(map(re.escape, names))}): .*\n(?:\1 +.*\n)*", "", text, flags=re.MULTILINE)


def _uses(node: ast.AST, names: set[str], deep: bool = False) -> bool:
    """Return whether an argument or item is one of `names` or, with `deep`, contains one of them."""
    if isinstance(node, ast.keyword):
        return (node.arg in names and not isinstance(node.value, ast.List)) or _uses(node.value, names, deep)
    found = {each for part in ast.walk(node) for each in (getattr(part, "id", ""), f".{getattr(part, 'attr', '')}")}
    return bool(names & found) if deep else getattr(node, "id", "") in names


def _commands(tree: ast.AST, names: set[str]) -> list[str]:
    """Return the names of a recipe's commands that run one of the functions in `names`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    flags = [flag for call in calls if ast.unparse(call.func) == "run_command" for flag in call.keywords]
    return [str(flag.arg) for flag in flags if getattr(flag.value, "id", "") in names]


def _without_statements(text: str, names: set[str]) -> str:
    """Remove the statements that use any of `names`, and blocks that are then empty."""
    edits = Edits(text)

    def prune(body: list[ast.stmt]) -> bool:
        useless = [is_useless(node) for node in body]
        for node, remove in zip(body, useless, strict=True):
            if remove and not all(useless):
                edits.remove(node)
        return all(useless)

    def is_useless(node: ast.stmt) -> bool:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            prune(node.body)
            return False
        if isinstance(node, ast.If | ast.For):
            return _uses(node.test if isinstance(node, ast.If) else node.iter, names, deep=True) or prune(node.body)
        return not isinstance(node, ast.Return) and _uses(node, names, deep=True)

    prune(edits.tree.body)
    return edits.text()


def _without_loss_scales(text: str) -> str:
    """Remove the calls to `optimizer.scale_loss`, because copies train in float32."""
    while found := re.search(r"^ +(\w*scaled) = \w+\.scale_loss\((.*)\)((?:  #.*)?)\n", text, re.MULTILINE):
        name, loss, comment = found.groups()
        line = ""
        if not re.fullmatch(r"\w+|\w+\[\"\w+\"\]", loss):
            comment = "" if "float16" in comment else comment
            line = found[0][: found.start(1) - found.start()] + f"{name.replace('scaled', 'total')} = {loss}{comment}\n"
            loss = name.replace("scaled", "total")
        text = text[: found.start()] + line + re.sub(rf"\b{name}\b", loss, text[found.end() :])
    return text
