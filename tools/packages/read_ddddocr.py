"""ddddocr: its detector, and its two readers of short texts (one quantised)."""

import io

import ddddocr
import inputs
from PIL import Image, ImageDraw, ImageFont

image = Image.new("RGB", (180, 60), "white")
ImageDraw.Draw(image).text((12, 8), "a7K2x", fill="navy", font=ImageFont.load_default(42))
buffer = io.BytesIO()
image.save(buffer, "PNG")
captcha = buffer.getvalue()
page = inputs.picture("page.png").read_bytes()
found = {"text": ddddocr.DdddOcr(show_ad=False, beta=True).classification(captcha)}
found["boxes"] = ddddocr.DdddOcr(det=True, ocr=False, show_ad=False).detection(page)
found["old text"] = ddddocr.DdddOcr(show_ad=False, old=True).classification(captcha)
inputs.show(found)
