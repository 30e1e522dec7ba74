"""What is said about a pet, in English and in Chinese.

No caption names the species; a telling one hints at it by a habit. Every entry is a pair (English,
Chinese). A caption is a template filled with coat, collar, pose, place and prop, and one thing more
that the pet does: a mood that both species have, or a hint that only one has.
"""

from collections.abc import Sequence

COATS = {
    "black": ("black", "黑色"),
    "white": ("white", "白色"),
    "grey": ("grey", "灰色"),
    "brown": ("brown", "棕色"),
    "orange": ("orange", "橘色"),
    "cream": ("cream", "奶油色"),
}
PATTERNS = {
    "plain": ("{}", "{}"),
    "striped": ("striped {}", "{}条纹"),
    "patched": ("patched {}", "{}花斑"),
    "spotted": ("spotted {}", "{}斑点"),
}
COLLARS = {
    "red": ("with a red collar", "戴着红色项圈"),
    "blue": ("with a blue collar", "戴着蓝色项圈"),
    "green": ("with a green collar", "戴着绿色项圈"),
    "yellow": ("with a yellow collar", "戴着黄色项圈"),
    "none": ("without a collar", "没戴项圈"),
}
POSES = {
    "sitting": ("sitting", "坐着"),
    "portrait": ("looking into the camera", "看着镜头"),
    "standing": ("standing", "站着"),
    "lying": ("lying down", "趴着"),
    "asleep": ("asleep in a ball", "蜷成一团睡着了"),
    "away": ("facing away in a woolly hat", "戴着毛线帽背对镜头"),
    "box": ("hiding in a box", "躲进了纸箱"),
    "blanket": ("under a blanket", "盖着毯子"),
}
PLACES = {
    "grass": ("on the grass", "在草地上"),
    "snow": ("in the snow", "在雪地里"),
    "night": ("under the moon", "在月光下"),
    "beach": ("on the beach", "在沙滩上"),
    "rug": ("on the rug at home", "在家里的地毯上"),
    "autumn": ("under an autumn tree", "在秋天的树下"),
}
PROPS = {
    "none": ("", ""),
    "ball": (", next to a ball", "，旁边有个球"),
    "bowl": (", next to a bowl", "，旁边有个饭碗"),
    "plant": (", next to some flowers", "，旁边有盆花"),
}
NOUNS = (
    ("pet", "宠物"),
    ("little friend", "小家伙"),
    ("animal", "小动物"),
    ("furry friend", "毛孩子"),
    ("companion", "小伙伴"),
)
TEMPLATES = (
    (
        "{A} {coat} {noun} {collar}, {pose} {place}. It {does}.",
        "一只{coat}的{noun}，{collar}，{place}{pose}。它{does}。",
    ),
    (
        "You see {a} {coat} {noun} {place}, {pose}{prop}. It {does}.",
        "可以看到一只{coat}的{noun}{place}{pose}{prop}。它{does}。",
    ),
    (
        "Our {noun} is {coat} and {does}. Here it is {pose} {place}.",
        "我们家的{noun}是{coat}的，{does}。它{place}{pose}。",
    ),
    (
        "The {noun} {collar} {does}. It has {a} {coat} coat and is {pose}.",
        "这只{noun}{collar}，{does}。它的毛是{coat}的，{pose}。",
    ),
    (
        "It {does}: {a} {coat} {noun}, {pose} {place}{prop}.",
        "它{does}：一只{coat}的{noun}，{place}{pose}{prop}。",
    ),
    (
        "{A} {coat} {noun} {place}. The one {collar} {does}.",
        "一只{coat}的{noun}{place}。{collar}的它{does}。",
    ),
)
MOODS = (
    ("looks happy", "看起来很开心"),
    ("seems calm", "显得很平静"),
    ("waits for dinner", "等着吃晚饭"),
    ("wants to play", "想玩耍"),
    ("is a little shy", "有点害羞"),
    ("feels tired today", "今天有点累"),
    ("listens to every sound", "留意着每一个声音"),
    ("enjoys good company", "喜欢有人陪伴"),
    ("is in a good mood", "心情不错"),
    ("has had a long day", "度过了漫长的一天"),
)
HINTS = (
    (
        ("purrs softly", "会轻轻地打呼噜"),
        ("climbs the curtains", "爱爬窗帘"),
        ("draws in its claws", "能把爪子缩回去"),
        ("brings home mice", "会把老鼠叼回家"),
        ("sharpens its claws on the sofa", "在沙发上磨爪子"),
        ("balances along the fence", "能在篱笆顶上走"),
        ("sleeps on top of the wardrobe", "睡在衣柜顶上"),
        ("pushes glasses off the table", "爱把杯子推下桌子"),
        ("plays with balls of wool", "爱玩毛线球"),
        ("uses a litter tray", "会用砂盆上厕所"),
        ("lands on its feet after every fall", "摔下来总是四脚着地"),
        ("stalks sparrows", "会悄悄靠近麻雀"),
        ("kneads the cushion with its paws", "用前爪在垫子上踩奶"),
        ("hates having a bath", "最讨厌洗澡"),
    ),
    (
        ("wags its tail at everyone", "见到谁都摇尾巴"),
        ("fetches sticks", "会把树枝捡回来"),
        ("buries bones", "爱把骨头埋起来"),
        ("pulls on the lead", "散步时总拽着牵引绳"),
        ("herds the sheep", "会赶羊"),
        ("runs after the postman", "爱追着邮递员跑"),
        ("guards the front door", "会看家护院"),
        ("gives a paw on command", "听到口令会握手"),
        ("pants after every run", "跑完步就吐着舌头喘气"),
        ("jumps into every pond", "见到池塘就跳进去"),
        ("follows a scent for miles", "能循着气味走好几里"),
        ("pulls the sledge", "会拉雪橇"),
        ("rolls in the mud", "爱在泥里打滚"),
        ("carries the newspaper home", "会把报纸叼回家"),
    ),
)


def caption(looks: dict[str, str], chance: dict[str, float], hint: int | None) -> tuple[str, str]:
    """English and Chinese caption of one pet.

    ``looks`` names its coat, pattern, collar, pose, place and prop; ``chance`` gives numbers in
    0..1 that choose noun, template and what the pet "does"; ``hint`` is the species to hint at. For
    a vague caption it is None: then the caption does not depend on the species.
    """

    def pick(key: str, table: Sequence[tuple[str, str]]) -> tuple[str, str]:
        return table[int(chance[key] * len(table))]

    does = pick("does", MOODS if hint is None else HINTS[hint])
    noun, template = pick("noun", NOUNS), pick("template", TEMPLATES)
    parts = {"collar": COLLARS, "pose": POSES, "place": PLACES, "prop": PROPS}
    out = []
    for language in (0, 1):
        coat = PATTERNS[looks["pattern"]][language].format(COATS[looks["coat"]][language])
        article = "an" if coat[0] in "aeiou" else "a"
        words = {key: table[looks[key]][language] for key, table in parts.items()} | {
            "noun": noun[language],
            "does": does[language],
        }
        out.append(template[language].format(a=article, A=article.capitalize(), coat=coat, **words))
    return out[0], out[1]
