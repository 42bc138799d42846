"""Buffers, places, and what every plan does with each of them: the part of planning that is hot.

A plan of a mobile network has some hundred steps and some hundred buffers, and a network whose
images come in many sizes is planned again and again. What is done node by node then is here; what
is done once for a node (writing a recipe, tracing) is in Python.
"""

cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from ..sizes import checked_size as _checked_size

cdef extern from *:
    bint add_passes "__builtin_add_overflow"(int64_t, int64_t, int64_t*) nogil

cdef enum:
    # As in memory.py and recipe.py.
    ARENA = 0
    CONST = 1
    EXTERNAL = 2
    ABSENT = 3
    ALIGN = 64
    INPUT = 1
    LOCAL = 2
    WITHIN = 3
    SCALED = 8
    ROOT = 9

cdef str CHANNELS_LAST = "channels_last"
cdef tuple LAYOUTS = ("plain", CHANNELS_LAST, "flat")
cdef tuple NOWHERE = (ABSENT, 0)


@cython.no_gc
@cython.auto_pickle(False)
@cython.final
cdef class Buffer:
    """A piece of memory.

    Attributes:
        kind: ``ARENA`` (of the run), ``CONST`` (``array``) or ``EXTERNAL`` (the caller's array
            number ``index``).
        nbytes: its size.
        first, last: of arena memory, the first and last step that touch it; ``offset`` follows
            from them.
        offset: where it begins: in the arena, or the address of a constant once somebody asked.
        parts: for scratch memory, how many threads have an equal part of it each: 1 when all of
            them use it together, 0 when only the kernel knows. None for anything else.
    """

    cdef public int kind
    cdef public object nbytes
    cdef public object array
    cdef public int index
    cdef public int first
    cdef public int last
    cdef public int64_t offset
    cdef public object parts

    def __init__(
        self, int kind, nbytes, array=None, int index=-1, int first=-1, int last=-1,
        int64_t offset=-1, parts=None,
    ):
        self.kind = kind
        self.nbytes = nbytes
        self.array = array
        self.index = index
        self.first = first
        self.last = last
        self.offset = offset
        self.parts = parts

    def __repr__(self):
        kind = ("ARENA", "CONST", "EXTERNAL")[self.kind]
        return f"Buffer({kind}, nbytes={self.nbytes}, index={self.index}, offset={self.offset})"

    def touch(self, int step):
        """Note that a step uses it."""
        if self.first < 0:
            self.first = step
        if step > self.last:
            self.last = step


@cython.no_gc
@cython.auto_pickle(False)
@cython.final
cdef class Place:
    """Where a value lives and how its elements lie there; not to be changed once made.

    Attributes:
        buffer: the memory.
        start: first element, in bytes from the buffer's start.
        shape: the value's logical (ONNX) shape.
        dtype: element type.
        layout: ``PLAIN``: C order of ``shape``. ``CHANNELS_LAST``: ``shape`` is (N, C, *spatial)
            and memory is [N][*spatial][C], each pixel ``pixel`` elements after the one before.
            ``FLAT``: ``shape`` is (N, C*S), flattened from channels-last, memory is [N][S][C] with
            ``channels`` = C.
        pixel: elements from one pixel to the next (C when dense).
        channels: C of a ``FLAT`` value.
        nbytes, size: of its elements alone: bytes, and how many they are.
        dense: whether no foreign elements lie between this value's own.
    """

    cdef readonly Buffer buffer
    cdef readonly object start
    cdef readonly object shape
    cdef readonly object dtype
    cdef readonly object layout
    cdef readonly object pixel
    cdef readonly object channels
    cdef tuple reference    # how the executor names it, if it is constant, once asked

    def __init__(
        self, Buffer buffer not None, start, shape, dtype, layout="plain", pixel=0, channels=0
    ):
        self.buffer = buffer
        self.start = start
        self.shape = shape
        self.dtype = dtype
        self.layout = layout
        self.pixel = pixel
        self.channels = channels

    def __eq__(self, other):
        if type(other) is not Place:
            return NotImplemented
        cdef Place o = other
        return self.buffer is o.buffer and (
            self.start == o.start and self.shape == o.shape and self.dtype == o.dtype
            and self.layout == o.layout and self.pixel == o.pixel and self.channels == o.channels
        )

    def __hash__(self):
        return hash((id(self.buffer), self.start, self.shape, self.layout))

    def __repr__(self):
        return (
            f"Place({self.buffer!r}, start={self.start}, shape={self.shape}, dtype={self.dtype}, "
            f"layout={self.layout!r}, pixel={self.pixel}, channels={self.channels})"
        )

    def __replace__(self, /, **changes):
        """A copy in which some fields are others."""
        cdef Place new = Place.__new__(Place)
        new.buffer = changes.pop("buffer", self.buffer)
        new.start = changes.pop("start", self.start)
        new.shape = changes.pop("shape", self.shape)
        new.dtype = changes.pop("dtype", self.dtype)
        new.layout = changes.pop("layout", self.layout)
        new.pixel = changes.pop("pixel", self.pixel)
        new.channels = changes.pop("channels", self.channels)
        if changes:
            raise TypeError(f"a Place has no {', '.join(changes)}")
        return new

    @property
    def nbytes(self):
        return _checked_size(self.shape, self.dtype.itemsize)

    @property
    def size(self):
        return _checked_size(self.shape, 1)

    @property
    def dense(self):
        return self.layout != CHANNELS_LAST or self.pixel == self.shape[1]


cdef struct Extent:
    int64_t offset
    int64_t end
    int first
    int last


def arrange(list buffers):
    """Fix every buffer's offset so that those alive together do not overlap; the size of all.

    Greedy by size, first fit, after Pisarchyk and Lee, "Efficient Memory Management for Deep Neural
    Net Inference", 2020.

    Raises:
        OverflowError: an offset passes what 64 bits hold.
    """
    cdef list live = []
    cdef Buffer b
    cdef int i, at, count = 0
    cdef int64_t nbytes, size, offset, end, total = 0
    cdef Extent* placed
    cdef Extent* e
    for i in range(len(buffers)):
        b = buffers[i]
        if b.first >= 0:
            live.append((-b.nbytes, b.first, i))
    live.sort()
    placed = <Extent*>malloc((len(live) + 1) * sizeof(Extent))
    if placed == NULL:
        raise MemoryError
    try:
        for _, _, index in live:
            b = buffers[<Py_ssize_t>index]
            nbytes = b.nbytes
            if nbytes < 1:
                nbytes = 1
            if add_passes(nbytes, ALIGN - 1, &size):
                raise OverflowError("a buffer of more than 64 bits")
            size -= size % ALIGN
            offset = 0
            for i in range(count):
                e = &placed[i]
                if e.first <= b.last and b.first <= e.last:
                    if offset <= e.offset - size:
                        break
                    if e.end > offset:
                        offset = e.end
            if add_passes(offset, size, &end):
                raise OverflowError("an arena of more than 64 bits")
            b.offset = offset
            if end > total:
                total = end
            at = count
            while at > 0 and placed[at - 1].offset > offset:
                at -= 1
            memmove(&placed[at + 1], &placed[at], (count - at) * sizeof(Extent))
            placed[at] = Extent(offset, end, b.first, b.last)
            count += 1
    finally:
        free(placed)
    return total


def touch(list used, list buffers):
    """Say anew which steps use each buffer first and last.

    Args:
        used: the places of each step.
        buffers: all arena memory.
    """
    cdef Buffer b
    cdef Place p
    cdef int i
    for item in buffers:
        b = item
        b.first = b.last = -1
    for i in range(len(used)):
        for item in <list?>used[i]:
            if item is not None:
                p = item
                b = p.buffer
                if b.first < 0:
                    b.first = i
                b.last = i


cdef struct Link:
    int64_t h
    int64_t reach       # from the first input row of an output row to its last
    int64_t stride
    int64_t pad
    int64_t nbytes      # of a row of its output


cdef inline void window(
    Link* links, int count, int64_t begin, int64_t end, int64_t* rows
) noexcept nogil:
    """The rows (begin, end) of each link's input, and of the output, for a band of the last."""
    cdef int k
    rows[2 * count], rows[2 * count + 1] = begin, end
    for k in range(count - 1, -1, -1):
        begin, end = (
            begin * links[k].stride - links[k].pad,
            (end - 1) * links[k].stride - links[k].pad + links[k].reach + 1,
        )
        begin = max(begin, 0)
        end = min(end, links[k].h)
        rows[2 * k], rows[2 * k + 1] = begin, end


cdef inline int64_t held(
    Link* links, int count, int64_t oh, int64_t each, int64_t* rows
) noexcept nogil:
    """Bytes between all links together for a band of so many rows in the middle."""
    cdef int64_t total = 0
    cdef int k
    window(links, count, (oh - each) // 2, (oh - each) // 2 + each, rows)
    for k in range(1, count):
        total += (rows[2 * k + 1] - rows[2 * k]) * links[k - 1].nbytes
    return total


cdef double anew(
    Link* links, int count, int64_t oh, int64_t bands, int64_t* rows, int64_t* have
) noexcept nogil:
    """The largest share of a link's rows that is computed more than once.

    ``have`` has room for the rows that each link holds, for how many it computed, and for its first.
    """
    cdef int64_t b, end, shift
    cdef int k
    cdef double most = 0
    for k in range(count + 1):
        have[2 * k] = have[2 * k + 1] = 0
        have[2 * (count + 1) + k] = 0
    for b in range(bands):
        window(links, count, oh * b // bands, oh * (b + 1) // bands, rows)
        for k in range(1, count):
            if b == 0:
                have[3 * (count + 1) + k] = rows[2 * k]
            end = min(have[2 * k + 1], rows[2 * k + 1])
            shift = rows[2 * k] - have[2 * k]
            if end <= rows[2 * k] or shift < 0 or 0 < shift < end - rows[2 * k]:
                end = rows[2 * k]
            have[2 * (count + 1) + k] += rows[2 * k + 1] - end
            have[2 * k] = rows[2 * k]
            have[2 * k + 1] = rows[2 * k + 1]
    for k in range(1, count):
        shift = max(1, rows[2 * k + 1] - have[3 * (count + 1) + k])
        most = max(most, <double>have[2 * (count + 1) + k] / shift - 1)
    return most


def divided(list stated, int64_t oh, int images, int64_t room, double most_anew, int64_t most_steps):
    """Into how many bands a chain of steps is cut; 0 where whole steps are better.

    Args:
        stated: of each step the rows of its input, kernel rows, stride, dilation, padding, and
            bytes of a row of its output.
        oh: rows of the last step's output.
        images: how many there are.
        room: bytes that what lies between the steps should take, and may take twice of.
        most_anew: the largest share of rows that may be computed again.
        most_steps: the most steps.
    """
    cdef int i, count = len(stated)
    cdef int64_t bands = 2, most = most_steps // max(1, images * count)
    cdef Link* links = <Link*>malloc((count + 1) * sizeof(Link))
    cdef int64_t* rows = <int64_t*>malloc(6 * (count + 1) * sizeof(int64_t))
    cdef int64_t* have = rows + 2 * (count + 1)
    if links == NULL or rows == NULL:
        free(links)
        free(rows)
        raise MemoryError
    try:
        for i, (h, kernel, stride, dilation, pad, nbytes) in enumerate(stated):
            links[i] = Link(h, (kernel - 1) * dilation, stride, pad, nbytes)
        while bands < min(oh, most):  # of more there would be too many steps
            if held(links, count, oh, (oh + bands - 1) // bands, rows) <= room:
                break
            bands += 1
        while bands > 1:
            if bands * images * count <= most_steps:
                if anew(links, count, oh, bands, rows, have) <= most_anew:
                    fits = held(links, count, oh, (oh + bands - 1) // bands, rows) <= 2 * room
                    return bands if fits else 0
            bands -= 1
        return 0
    finally:
        free(links)
        free(rows)


def references(list places, address):
    """How the executor names the places of a step: ``(kind, value)`` each.

    Args:
        places: places, or None for what is absent.
        address: gives where an array's memory begins.
    """
    cdef list found = []
    cdef Place p
    cdef Buffer b
    for item in places:
        if item is None:
            found.append(NOWHERE)
            continue
        p = item
        b = p.buffer
        if b.kind == ARENA:
            found.append((ARENA, b.offset + <int64_t>p.start))
        elif b.kind == CONST:
            if p.reference is None:
                if b.offset < 0:
                    b.offset = address(b.array)
                p.reference = (CONST, b.offset + <int64_t>p.start)
            found.append(p.reference)
        elif p.start == 0:
            found.append((EXTERNAL, b.index))
        else:
            raise AssertionError("a part of the caller's array")
    return found


cdef inline object number(object n, list values):
    """A number of a recipe: itself, or what a tape gave for it."""
    if values is not None and <int64_t>n < 0:
        return values[-1 - <int64_t>n]
    return n


def make_buffers(list stated, list values, list arena):
    """Append a recipe's buffers to those of a plan; returns them alone."""
    cdef list made = []
    cdef Buffer b
    for nbytes, parts in stated:
        b = Buffer.__new__(Buffer)
        b.kind = ARENA
        b.nbytes = number(nbytes, values)
        b.parts = parts
        b.index = b.first = b.last = -1
        b.offset = -1
        made.append(b)
    arena.extend(made)
    return made


def make_places(
    list stated, list constants, list values, list buffers, list inputs, list outputs, low, computed
):
    """The places of a recipe's steps that the node's inputs do not have already.

    Args:
        stated: the recipe's ``locals``.
        constants: the constants behind them, None for other memory.
        values: what its tape gave, or None without one.
        buffers: the node's own.
        inputs, outputs: names of values.
        low: the plan in the making.
        computed: makes a table of sizes.
    """
    cdef list made = [], keep = low.keep
    cdef dict places = low.places
    cdef Place p
    cdef Buffer memory
    cdef tuple form, stating
    cdef int i, source
    for i in range(len(stated)):
        stating = stated[i]
        source, value, form = stating
        array = None
        memory = constants[i]
        if memory is not None:
            keep.append(memory.array)
        elif source == LOCAL:
            memory = buffers[<int>value]
        elif source == WITHIN:
            memory = (<Place?>places[inputs[<int>value[0]], value[1]]).buffer
        elif source == ROOT:
            memory = low.roots[low.root_of(outputs[<int>value])]
        else:
            array = computed(value, values)
            keep.append(array)
            memory = Buffer(CONST, array.nbytes, array)
        p = Place.__new__(Place)
        p.buffer = memory
        start, shape, p.dtype, p.layout, pixel, channels = form
        p.start = number(start, values)
        if array is not None:
            p.shape = array.shape  # that of other sizes is another
        else:
            p.shape = tuple(<list>values[shape]) if type(shape) is slice else shape
        p.pixel = number(pixel, values)
        p.channels = number(channels, values)
        made.append(p)
    return made


def make_steps(
    list stated, list made, list values, list structs, list inputs, low, node, step_class, late_params
):
    """Append a recipe's steps to those of a plan.

    Args:
        stated: the recipe's parts.
        made: the places that it made.
        values, structs: what its tape gave, or None without one.
        inputs: names of values.
        low: the plan in the making.
        node: the node that they belong to.
        step_class: what makes a step.
        late_params: what makes the parameters of one whose struct is known already.
    """
    cdef list steps = low.steps, used
    cdef dict places = low.places
    cdef Place p
    cdef Buffer b
    cdef tuple role
    cdef int i, kind, count
    for i in range(len(stated)):
        part = stated[i]
        count = len(steps)
        used = []
        for role in <tuple>part.places:
            kind = role[0]
            if kind == LOCAL:
                p = made[<int>role[1]]
            elif kind == INPUT:
                p = places[inputs[<int>role[1]], role[2]]
            elif kind == SCALED:
                p = getattr(low.postponed[inputs[<int>role[1]]], role[2])
            else:
                used.append(None)
                continue
            used.append(p)
            b = p.buffer
            if b.kind == ARENA:
                if b.first < 0:
                    b.first = count
                b.last = count
        if values is None:
            step = step_class(
                part.kernel, node, part.params, used, part.threads, part.macs, part.pieces
            )
            step.part = part
        else:
            params = late_params(part, values) if part.varying else part.params
            step = step_class(
                part.kernel, node, params, used, number(part.threads, values),
                number(part.macs, values), number(part.pieces, values),
            )
            step.packed = structs[i]
        steps.append(step)


def key_of(low, int kind, names, indices, list outputs, list sizes, list given):
    """What a node's steps depend on; None where one of its inputs has no type, or a source of it
    is postponed too.

    Args:
        low: the plan in the making.
        kind: the number of its kind.
        names: the inputs that are no constants.
        indices: which inputs these are.
        outputs: its outputs.
        sizes: extended by the sizes that the steps depend on besides, for which a recipe may hold
            in general: all but the first two of each shape, or as few as ``low.opened`` says.
        given: extended by the places, as ``(input, layout, place)``.
    """
    cdef dict types = low.types, places = low.places, postponed = low.postponed
    cdef dict opened = low.opened
    cdef list key = [kind], buffers = []
    cdef int i, rank, first
    cdef Place p
    cdef tuple shape
    for i in range(len(names)):
        name = names[i]
        t = types.get(name)
        if t is None:
            return None
        shape = t.shape
        rank = len(shape)
        first = opened.get(name, 2)
        key.append(4 * rank + first)
        if rank > 2 and first == 2:
            key.append(shape[0])
            key.append(shape[1])
        else:
            key.append(shape[:first])
        sizes.extend(shape[first:])
        key.append(t.dtype)
        if postponed and name in postponed:
            scaled = postponed[name]
            if scaled.source in postponed:
                return None
            key.append((SCALED, repr(scaled.lo), scaled.per_image, names.index(scaled.source)))
            for layout, place in ("scale", scaled.scale), ("shift", scaled.shift):
                if place is None:
                    key.append(None)
                    continue
                p = place
                key.append((p.buffer.kind, p.layout, p.dtype, len(p.shape), p.shape[:2]))
                key.append((p.start, p.pixel, p.channels, numbered(p.buffer, buffers)))
                sizes.extend(p.shape[2:])
                given.append((indices[i], layout, p))
            continue
        for layout in LAYOUTS:
            place = places.get((name, layout))
            if place is None:
                key.append(None)
                continue
            p = place
            # Which places share memory counts: an output may share it with one of them.
            key.append(p.buffer.kind)
            key.append(p.start)
            key.append(p.pixel)
            key.append(p.channels)
            key.append(numbered(p.buffer, buffers))
            given.append((indices[i], layout, p))
    results, due, slices, roots = low.outputs, low.due, low.slices, low.roots
    for name in outputs:
        if not name:
            continue
        # (A spatial size may have moved into the first two.)
        shape = types[name].shape
        first = opened.get(name, 2)
        key.append(4 * <int>len(shape) + first)
        key.append(shape[:first])
        sizes.extend(shape[first:])
        key.append(name in results)
        key.append(name in due)
        part = slices.get(name)
        memory = roots.get(name if part is None else part.root)
        key.append(-1 if memory is None else numbered(memory, buffers))
        if part is not None:
            shape = types[part.root].shape
            sizes.extend(shape[2:])
            key.append((part.channel, part.root == name, shape[:2], len(shape)))
    return tuple(key)


cdef object numbered(Buffer b, list buffers):
    """Which of the buffers met this is; a new one is noted."""
    at = id(b)
    if at not in buffers:
        buffers.append(at)
    return buffers.index(at)
