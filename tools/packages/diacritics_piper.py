"""piper-tts' diacritizers: GRUs with attention (Arabic), and Loop with LSTM cells (Hebrew)."""

import inputs
from piper.hebrew import NakdimonDiacritizer
from piper.tashkeel import TashkeelDiacritizer

inputs.show(
    {
        "arabic": TashkeelDiacritizer()("مرحبا بالعالم، كيف حالك اليوم؟"),
        "hebrew": NakdimonDiacritizer()("שלום עולם, מה שלומך היום?"),
    }
)
