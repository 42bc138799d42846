"""Magika tells what kind of file it is given."""

import inputs
from magika import Magika

magika = Magika()
paths = [inputs.picture("page.png"), inputs.street("bus.jpg"), inputs.folder("magika", "magika.py")]
samples = [p.read_bytes() for p in paths]
samples += [b"# Title\n\nSome *text* and `code`.\n" * 9, b'{"a": [1, 2, 3]}\n' * 20]
samples += [b"SELECT name FROM people WHERE age > 30 ORDER BY name;\n" * 5]
results = [magika.identify_bytes(s) for s in samples]
inputs.show([(r.output.label, r.score) for r in results])
