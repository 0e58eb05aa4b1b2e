#!/usr/bin/env python3
"""Writes tests/vision/panoptic_references.hpp: what PyTorch gives for the recurrent mask head and a tiny Panoptic FPN.

Both are written here from the equations, in double precision, without this library. Values are filled by sines, so that
only results are stored: scripts/panoptic_references.py | clang-format > tests/vision/panoptic_references.hpp
"""
import math

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def sines(shape, a, k):
    n = math.prod(shape)
    return (a * torch.sin(k * torch.arange(1, n + 1))).reshape(shape)


def filled(shapes):
    """Parameter number p of shape s: a sine of its own frequency, around 1 where it is a norm's weight."""
    out = {}
    for p, (name, shape) in enumerate(shapes):
        scale = 1.2 / math.sqrt(math.prod(shape[1:])) if len(shape) in (2, 4) else 0.3
        is_norm = name.endswith(("bn.0.weight", "bn.1.weight", "norm.weight"))
        out[name] = ((1 if is_norm else 0) + sines(shape, scale, 0.37 + 0.11 * p)).requires_grad_()
    return out


def projection(g):
    return (g * sines(g.shape, 1, 0.13)).sum().item()


# --- the recurrent mask head -----------------------------------------------------------------------------------------

C, MASK, CLASSES, REGIONS, SIDE = 16, 12, 5, 3, 6


def cell_shapes(gala, less_softplus):
    s = [("w_gate_inh", (C, C, 3, 3)), ("w_gate_exc", (C, C, 3, 3)), ("alpha", (C, 1, 1)), ("mu", (C, 1, 1))]
    if not less_softplus:
        s += [("w", (C, 1, 1))]
    if gala:
        s += [("u0_channel_gate_0.weight", (C // 4, C, 1, 1)), ("u0_channel_gate_0.bias", (C // 4,)),
              ("u0_channel_gate_1.weight", (C, C // 4, 1, 1)), ("u0_spatial_gate_0", (C // 2, C, 3, 3)),
              ("u0_spatial_bias", (C // 2, 1, 1)), ("u0_spatial_gate_1", (1, C // 2, 3, 3)),
              ("u0_combine_bias", (C, 1, 1))]
    else:
        s += [("u0_gate.weight", (C, C, 1, 1)), ("u0_gate.bias", (C,))]
    s += [("u1_gate.weight", (C, C, 1, 1)), ("u1_gate.bias", (C,))]
    return s + [(f"bn.{k}.{what}", (C,)) for k in range(2) for what in ("weight", "bias")]


def head_shapes(gala, less_softplus):
    return [("recurrent." + n, s) for n, s in cell_shapes(gala, less_softplus)] + [
        ("horizontal_norm.weight", (C,)), ("horizontal_norm.bias", (C,)), ("deconv.weight", (C, MASK, 2, 2)),
        ("deconv.bias", (MASK,)), ("predictor.weight", (CLASSES, MASK, 1, 1)), ("predictor.bias", (CLASSES,))]


def step(p, h, x, gala, less_softplus, groups):
    q = lambda name: p["recurrent." + name]
    if gala:
        channels = F.conv2d(F.softplus(F.conv2d(h, q("u0_channel_gate_0.weight"), q("u0_channel_gate_0.bias"))),
                            q("u0_channel_gate_1.weight"))
        places = F.conv2d(F.softplus(F.conv2d(h, q("u0_spatial_gate_0"), padding=1) + q("u0_spatial_bias")),
                          q("u0_spatial_gate_1"), padding=1)
        g1 = torch.sigmoid(channels * places + q("u0_combine_bias"))
    else:
        g1 = torch.sigmoid(F.conv2d(h, q("u0_gate.weight"), q("u0_gate.bias")))
    norm = lambda k, v: F.group_norm(v, groups, q(f"bn.{k}.weight"), q(f"bn.{k}.bias"), 1e-5)
    i = F.softplus(x - norm(0, F.conv2d(g1 * h, q("w_gate_inh"), padding=1)) * (q("alpha") * h + q("mu")))
    g2 = torch.sigmoid(F.conv2d(i, q("u1_gate.weight"), q("u1_gate.bias")))
    e = F.softplus(norm(1, F.conv2d(i, q("w_gate_exc"), padding=1)))
    c = e if less_softplus else i + F.softplus(q("w") * i * e)
    return (1 - g2) * h + g2 * c


def neumann(last, before, g, terms, cap):
    """The released series: what it does at a rejected term is to remember the sum without it, and to go on."""
    total, v, kept, previous = g, g, None, g.norm()
    for _ in range(terms):
        v = torch.autograd.grad(last, before, v, retain_graph=True)[0]
        added = total + v
        if cap and (added.norm() > 1 or v.norm() > previous or v.norm() < 1e-9):
            kept = added = total
        previous, total = v.norm(), added
    return total if kept is None else kept


def mask_head(method, steps, cap=True, gala=True, less_softplus=True, scale=1.0, groups=4, terms=15, tau=0.3, xi=0.05):
    p = filled(head_shapes(gala, less_softplus))
    x = sines((REGIONS, C, SIDE, SIDE), 1.5, 0.17).requires_grad_()
    targets = (sines((REGIONS, 2 * SIDE, 2 * SIDE), 1, 0.41) > 0).double()
    classes = [4, 0, 2]
    statistics = [torch.zeros(C), torch.ones(C)]

    def read(h):
        y = F.batch_norm(h, *statistics, p["horizontal_norm.weight"], p["horizontal_norm.bias"], True, 0.1, 1e-5)
        y = F.relu(F.conv_transpose2d(y, p["deconv.weight"], p["deconv.bias"], stride=2))
        logits = F.conv2d(y, p["predictor.weight"], p["predictor.bias"])
        chosen = torch.stack([logits[r, k] for r, k in enumerate(classes)])
        return logits, F.binary_cross_entropy_with_logits(chosen, targets)

    h = torch.zeros_like(x)
    inputs = list(p.values()) + [x]
    penalty = torch.zeros(())
    if method == "bptt":
        for _ in range(steps):
            h = step(p, h, x, gala, less_softplus, groups)
        logits, loss = read(h)
        gradients = torch.autograd.grad(scale * loss, inputs)
    else:
        with torch.no_grad():
            for _ in range(steps - 1):
                h = step(p, h, x, gala, less_softplus, groups)
        before = h.detach().requires_grad_()
        last = step(p, before, x, gala, less_softplus, groups)
        leaf = last.detach().requires_grad_()
        logits, loss = read(leaf)
        g = torch.autograd.grad(scale * loss, leaf, retain_graph=True)[0]
        total = neumann(last, before, g, terms, cap)
        parts = [torch.autograd.grad(scale * loss, inputs, retain_graph=True, allow_unused=True),
                 torch.autograd.grad(last, inputs, total, retain_graph=True, allow_unused=True)]
        if method == "cbp":
            v = torch.autograd.grad(last, before, torch.ones_like(last), create_graph=True)[0]
            penalty = xi * ((v - tau).clamp(min=0) ** 2).sum()
            parts.append(torch.autograd.grad(penalty, inputs, allow_unused=True))
        gradients = [sum(g[k] for g in parts if g[k] is not None) for k in range(len(inputs))]
    values = [projection(logits), loss.item(), penalty.item(), projection(statistics[0]), projection(statistics[1])]
    return values + [projection(g) for g in gradients]


HEADS = [
    dict(method="bptt", steps=1), dict(method="bptt", steps=3), dict(method="bptt", steps=20),
    dict(method="cbp", steps=1), dict(method="cbp", steps=3), dict(method="cbp", steps=20),
    dict(method="cbp", steps=3, scale=500.0), dict(method="rbp", steps=20, scale=500.0),
    dict(method="cbp", steps=1, cap=False), dict(method="rbp", steps=3, cap=False),
    dict(method="cbp", steps=20, cap=False), dict(method="cbp", steps=3, cap=False, gala=False),
    dict(method="cbp", steps=3, cap=False, less_softplus=False),
    dict(method="bptt", steps=3, gala=False, less_softplus=False),
]


# --- the hGRU whose state has other channels than its drive ----------------------------------------------------------


def hgru_v2(gala, inner=8, c=12, groups=4):
    shapes = [("fan_out_kernel", (inner, c, 3, 3)), ("fan_out_bias", (inner, 1, 1)),
              ("w_gate_inh", (inner, inner, 3, 3)), ("w_gate_exc", (c, inner, 3, 3)), ("alpha", (inner, 1, 1)),
              ("mu", (inner, 1, 1))]
    if gala:
        q = inner // 4
        shapes += [("u0_channel_gate_0.weight", (q, inner, 1, 1)), ("u0_channel_gate_0.bias", (q,)),
                   ("u0_channel_gate_1.weight", (inner, q, 1, 1)), ("u0_spatial_gate_0", (q, inner, 3, 3)),
                   ("u0_spatial_bias", (q, 1, 1)), ("u0_spatial_gate_1", (1, q, 3, 3)),
                   ("u0_combine_bias", (inner, 1, 1))]
    else:
        shapes += [("u0_gate.weight", (inner, inner, 1, 1)), ("u0_gate.bias", (inner,))]
    shapes += [("u1_gate.weight", (c, inner + c, 1, 1)), ("u1_gate.bias", (c,)), ("bn.0.weight", (inner,)),
               ("bn.0.bias", (inner,)), ("bn.1.weight", (c,)), ("bn.1.bias", (c,))]
    p = filled(shapes)
    x = sines((2, inner, 5, 4), 1.5, 0.17).requires_grad_()
    h = torch.zeros(2, c, 5, 4)
    for _ in range(3):
        f = F.conv2d(h, p["fan_out_kernel"], padding=1) + p["fan_out_bias"]
        if gala:
            channels = F.conv2d(F.softplus(F.conv2d(f, p["u0_channel_gate_0.weight"], p["u0_channel_gate_0.bias"])),
                                p["u0_channel_gate_1.weight"])
            places = F.softplus(F.conv2d(f, p["u0_spatial_gate_0"], padding=1) + p["u0_spatial_bias"])
            g1 = torch.sigmoid(channels * F.conv2d(places, p["u0_spatial_gate_1"], padding=1) + p["u0_combine_bias"])
        else:
            g1 = torch.sigmoid(F.conv2d(f, p["u0_gate.weight"], p["u0_gate.bias"]))
        norm = lambda k, v: F.group_norm(v, groups, p[f"bn.{k}.weight"], p[f"bn.{k}.bias"], 1e-5)
        inhibited = norm(0, F.conv2d(f * g1, p["w_gate_inh"], padding=1)) * (p["alpha"] * f + p["mu"])
        i = F.softplus(x - F.softplus(inhibited))
        g2 = torch.sigmoid(F.conv2d(torch.cat([i, h], 1), p["u1_gate.weight"], p["u1_gate.bias"]))
        h = (1 - g2) * h + g2 * F.softplus(norm(1, F.conv2d(i, p["w_gate_exc"], padding=1)))
    total = (h * sines(h.shape, 1, 0.13)).sum()
    return [total.item()] + [projection(g) for g in torch.autograd.grad(total, list(p.values()) + [x])]


# --- a tiny Panoptic FPN ---------------------------------------------------------------------------------------------

WIDTH, HIDDEN, THINGS, STUFF = 8, 12, 2, 2
SIZES, RATIOS = [8, 16, 32, 48, 64], [0.5, 1, 2]
IMAGES = [(50, 64), (40, 58)]
TRUTH = [dict(boxes=[[6, 4, 34, 30], [30, 20, 60, 47]], classes=[1, 0]), dict(boxes=[[3.5, 8, 27, 37]], classes=[1])]


def net_shapes():
    s = []

    def layer(name, out, inner, kernel, norm):
        s.append((name + ".weight", (out, inner, kernel, kernel)))
        s.extend([(f"{name}.{rest}", (out,)) for rest in (("norm.weight", "norm.bias") if norm else ("bias",))])

    up = "backbone.bottom_up."
    layer(up + "stem.conv1", 8, 3, 7, True)
    inner, out = 8, 8
    for stage in range(2, 6):
        name = f"{up}res{stage}.0."
        layer(name + "conv1", out // 4, inner, 1, True)
        layer(name + "conv2", out // 4, out // 4, 3, True)
        layer(name + "conv3", out, out // 4, 1, True)
        if inner != out or stage > 2:
            layer(name + "shortcut", out, inner, 1, True)
        inner, out = out, 2 * out
    for level in range(2, 6):
        layer(f"backbone.fpn_lateral{level}", WIDTH, 8 << (level - 2), 1, False)
        layer(f"backbone.fpn_output{level}", WIDTH, WIDTH, 3, False)
    rpn = "proposal_generator.rpn_head."
    layer(rpn + "conv", WIDTH, WIDTH, 3, False)
    layer(rpn + "objectness_logits", 3, WIDTH, 1, False)
    layer(rpn + "anchor_deltas", 12, WIDTH, 1, False)
    for name, o, i in [("box_head.fc1", HIDDEN, WIDTH * 9), ("box_head.fc2", HIDDEN, HIDDEN),
                       ("box_predictor.cls_score", THINGS + 1, HIDDEN),
                       ("box_predictor.bbox_pred", 4 * THINGS, HIDDEN)]:
        s.extend([(f"roi_heads.{name}.weight", (o, i)), (f"roi_heads.{name}.bias", (o,))])
    head = "roi_heads.mask_head."
    layer(head + "mask_fcn1", WIDTH, WIDTH, 3, False)
    layer(head + "mask_fcn2", WIDTH, WIDTH, 3, False)
    s.extend([(head + "deconv.weight", (WIDTH, WIDTH, 2, 2)), (head + "deconv.bias", (WIDTH,))])
    layer(head + "predictor", THINGS, WIDTH, 1, False)
    for level in range(2, 6):
        for k in range(max(level - 2, 1)):
            layer(f"sem_seg_head.p{level}.{2 * k}", WIDTH, WIDTH, 3, True)
    layer("sem_seg_head.predictor", STUFF + 1, WIDTH, 1, False)
    return s


def ious(a, b):
    lt, rb = torch.max(a[:, None, :2], b[None, :, :2]), torch.min(a[:, None, 2:], b[None, :, 2:])
    common = (rb - lt).clamp(min=0).prod(2)
    area = lambda x: (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
    return torch.where(common > 0, common / (area(a)[:, None] + area(b)[None] - common), torch.zeros(()))


def encode(source, target, w):
    size = lambda b: b[:, 2:] - b[:, :2]
    centre = lambda b: b[:, :2] + size(b) / 2
    w = torch.tensor(w)
    return torch.cat([w[:2] * (centre(target) - centre(source)) / size(source),
                      w[2:] * torch.log(size(target) / size(source))], 1)


def decode(source, code, w):
    w = torch.tensor(w)
    size = source[:, 2:] - source[:, :2]
    centre = source[:, :2] + size / 2
    new_centre = code[:, :2] / w[:2] * size + centre
    new_size = torch.exp((code[:, 2:] / w[2:]).clamp(max=math.log(1000 / 16))) * size
    return torch.cat([new_centre - new_size / 2, new_centre + new_size / 2], 1)


def roi_align(x, box, scale, size):
    """(C, size, size) of x (C, H, W): means of bilinear samples, aligned, as many to a bin as it has places."""
    rows, columns = x.shape[1:]

    def weights(low, high, extent):
        start, length = low * scale - 0.5, (high - low) * scale
        count = math.ceil(length / size)
        out = torch.zeros(size, extent)
        for b in range(size):
            for k in range(count):
                at = start + b * length / size + (k + 0.5) * length / size / count
                if at < -1 or at > extent:
                    continue
                at = min(max(at, 0.0), extent - 1.0)
                i = int(at)
                out[b, i] += (1 - (at - i)) / count
                if i + 1 < extent:
                    out[b, i + 1] += (at - i) / count
        return out

    l, t, r, b = box
    return torch.einsum("yi,cij,xj->cyx", weights(t, b, rows), x, weights(l, r, columns))


def pooled(pyramid, boxes, images, size, canonical=32):
    out = []
    for box, n in zip(boxes.tolist(), images):
        area = (box[2] - box[0]) * (box[3] - box[1])
        level = min(max(math.floor(4 + math.log2(math.sqrt(area) / canonical + 2.2e-16)), 2), 5)
        out.append(roi_align(pyramid[level - 2][n], box, 0.5 ** level, size))
    return torch.stack(out)


def panoptic_fpn():
    p = filled(net_shapes())
    mean, spread = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = torch.zeros(2, 3, 64, 64)
    labels = torch.full((2, 64, 64), 255)
    masks = []
    for n, (h, w) in enumerate(IMAGES):
        pixels = 127.5 + sines((3, h, w), 127.5, 0.0117 + 0.003 * n)
        x[n, :, :h, :w] = (pixels - mean[:, None, None]) / spread[:, None, None]
        labels[n, :h, :w] = (torch.arange(h)[:, None] // 13 + torch.arange(w)[None] // 17) % (STUFF + 1)
        labels[n, 3:5, 7:20] = 255
        masks.append([])
        for box in TRUTH[n]["boxes"]:
            cy, cx = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
            y, z = torch.arange(h)[:, None] + 0.5, torch.arange(w)[None] + 0.5
            v, u = (y - cy) / (box[3] - box[1]), (z - cx) / (box[2] - box[0])
            masks[n].append((u ** 2 + v ** 2 <= 0.25).double())

    def layer(name, x, stride=1, groups=0, relu=False, added=None):
        w = p[name + ".weight"]
        y = F.conv2d(x, w, p.get(name + ".bias"), stride=stride, padding=w.shape[2] // 2)
        if groups:
            y = F.group_norm(y, groups, p[name + ".norm.weight"], p[name + ".norm.bias"])
        if added is not None:
            y = y + added
        return F.relu(y) if relu else y

    y = F.max_pool2d(layer("backbone.bottom_up.stem.conv1", x, 2, 2, True), 3, 2, 1)
    features = []
    for stage in range(2, 6):
        name, stride = f"backbone.bottom_up.res{stage}.0.", 1 if stage == 2 else 2
        beside = layer(name + "shortcut", y, stride, 2) if stage > 2 else y
        z = layer(name + "conv1", y, 1, 2, True)
        z = layer(name + "conv2", z, stride, 2, True)
        y = layer(name + "conv3", z, 1, 2, True, beside)
        features.append(y)
    pyramid, down = [None] * 4, None
    for l in range(3, -1, -1):
        above = None if down is None else F.interpolate(down, scale_factor=2, mode="nearest")
        down = layer(f"backbone.fpn_lateral{l + 2}", features[l], added=above)
        pyramid[l] = layer(f"backbone.fpn_output{l + 2}", down)
    pyramid.append(pyramid[3][:, :, ::2, ::2])

    anchors, logits, deltas = [], [], []
    for l, feature in enumerate(pyramid):
        hidden = layer("proposal_generator.rpn_head.conv", feature, relu=True)
        logits.append(layer("proposal_generator.rpn_head.objectness_logits", hidden).permute(0, 2, 3, 1).reshape(2, -1))
        deltas.append(layer("proposal_generator.rpn_head.anchor_deltas", hidden).permute(0, 2, 3, 1).reshape(2, -1, 4))
        boxes = []
        for i in range(feature.shape[2]):
            for j in range(feature.shape[3]):
                for ratio in RATIOS:
                    w = math.sqrt(SIZES[l] ** 2 / ratio) / 2
                    cx, cy = j * (4 << l), i * (4 << l)
                    boxes.append([cx - w, cy - ratio * w, cx + w, cy + ratio * w])
        anchors.append(torch.tensor(boxes))
    every, all_logits, all_deltas = torch.cat(anchors), torch.cat(logits, 1), torch.cat(deltas, 1)

    # All anchors and regions are sampled, so that nothing is drawn at random; the divisors are the numbers asked for.
    rpn_batch, box_batch = 100000, 100000
    rpn_cls = rpn_loc = 0
    regions, region_images, region_classes, region_objects = [], [], [], []
    for n, truth in enumerate(TRUTH):
        objects = torch.tensor([[float(v) for v in box] for box in truth["boxes"]])
        iou = ious(objects, every)
        best, matched = iou.max(0)
        label = torch.where(best >= 0.7, 1, torch.where(best < 0.3, 0, -1))
        label[(iou == iou.max(1, keepdim=True).values).any(0)] = 1
        use = label >= 0
        rpn_cls = rpn_cls + F.binary_cross_entropy_with_logits(all_logits[n][use], label[use].double(), reduction="sum")
        good = label == 1
        rpn_loc = rpn_loc + (all_deltas[n][good] - encode(every[good], objects[matched[good]], [1.0] * 4)).abs().sum()
        # proposals
        found = []
        for l in range(5):
            order = torch.argsort(logits[l][n], descending=True, stable=True)[:40]
            boxes = decode(anchors[l][order], deltas[l][n][order].detach(), [1.0] * 4)
            h, w = IMAGES[n]
            boxes = torch.stack([boxes[:, 0].clamp(0, w), boxes[:, 1].clamp(0, h), boxes[:, 2].clamp(0, w),
                                 boxes[:, 3].clamp(0, h)], 1)
            scores = logits[l][n][order].detach()
            ok = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            boxes, scores, kept = boxes[ok], scores[ok], []
            for k in range(len(boxes)):
                if all(ious(boxes[k:k + 1], boxes[j:j + 1]).item() <= 0.7 for j in kept):
                    kept.append(k)
            found += [(scores[k].item(), boxes[k]) for k in kept]
        found.sort(key=lambda f: -f[0])
        boxes = torch.cat([torch.stack([b for _, b in found[:25]]), objects])
        best, matched = ious(objects, boxes).max(0)
        for fg in (True, False):
            for k in range(len(boxes)):
                if (best[k].item() >= 0.5) == fg:
                    regions.append(boxes[k])
                    region_images.append(n)
                    region_classes.append(truth["classes"][matched[k]] if fg else THINGS)
                    region_objects.append(matched[k].item())
    rpn_cls, rpn_loc = rpn_cls / (2 * rpn_batch), rpn_loc / (2 * rpn_batch)

    regions = torch.stack(regions)
    y = pooled(pyramid, regions, region_images, 3).flatten(1)
    linear = lambda name: F.linear(y, p[f"roi_heads.{name}.weight"], p[f"roi_heads.{name}.bias"])
    for name in ("fc1", "fc2"):
        y = F.relu(linear("box_head." + name))
    cls = F.cross_entropy(linear("box_predictor.cls_score"), torch.tensor(region_classes))
    codes, box_reg = linear("box_predictor.bbox_pred"), 0
    fg = [k for k, c in enumerate(region_classes) if c < THINGS]
    for k in fg:
        target = torch.tensor([[float(v) for v in TRUTH[region_images[k]]["boxes"][region_objects[k]]]])
        c = region_classes[k]
        code = encode(regions[k:k + 1], target, [10.0, 10, 5, 5])[0]
        box_reg = box_reg + (codes[k, 4 * c:4 * c + 4] - code).abs().sum()
    box_reg = box_reg / len(regions)

    y = pooled(pyramid, regions[fg], [region_images[k] for k in fg], 4)
    head = "roi_heads.mask_head."
    for name in ("mask_fcn1", "mask_fcn2"):
        y = layer(head + name, y, relu=True)
    y = F.relu(F.conv_transpose2d(y, p[head + "deconv.weight"], p[head + "deconv.bias"], stride=2))
    y = layer(head + "predictor", y)
    chosen = torch.stack([y[i, region_classes[k]] for i, k in enumerate(fg)])
    within = lambda k: roi_align(masks[region_images[k]][region_objects[k]][None], regions[k].tolist(), 1.0, 8)[0]
    targets = torch.stack([(within(k) >= 0.5).double() for k in fg])
    mask = F.binary_cross_entropy_with_logits(chosen, targets)

    total = 0
    for level in range(2, 6):
        y = pyramid[level - 2]
        for k in range(max(level - 2, 1)):
            y = layer(f"sem_seg_head.p{level}.{2 * k}", y, groups=4, relu=True)
            if level > 2:
                y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + y
    y = F.interpolate(layer("sem_seg_head.predictor", total), scale_factor=4, mode="bilinear", align_corners=False)
    sem = 0.5 * F.cross_entropy(y, labels, ignore_index=255)

    losses = [rpn_cls, rpn_loc, cls, box_reg, mask, sem]
    gradients = torch.autograd.grad(1000 * (rpn_cls + rpn_loc) + cls + box_reg + mask + sem, list(p.values()))
    return [len(regions), len(fg)] + [l.item() for l in losses] + [projection(g) for g in gradients]


def written(values):
    return ", ".join(repr(float(v)) for v in values)


def main():
    print("#pragma once")
    print("#include <vector>\n")
    print("// Written by scripts/panoptic_references.py with PyTorch " + torch.__version__.split("+")[0] + ".\n")
    print("struct HeadReference {\n  const char* method;\n  int steps;\n  bool cap, gala, less_softplus;\n"
          "  double scale;\n  std::vector<double> values;\n};\n")
    print("inline const std::vector<HeadReference> head_references{")
    for case in HEADS:
        flag = lambda name: str(case.get(name, True)).lower()
        print(f'    {{"{case["method"]}", {case["steps"]}, {flag("cap")}, {flag("gala")}, {flag("less_softplus")}, '
              f'{case.get("scale", 1.0)},\n     {{{written(mask_head(**case))}}}}},')
    print("};\n")
    print("inline const std::vector<std::vector<double>> hgru_v2_references{")
    print(",".join("    {" + written(hgru_v2(gala)) + "}" for gala in (True, False)) + "};\n")
    print("inline const std::vector<double> net_reference{")
    print("    " + written(panoptic_fpn()) + "};")


main()
