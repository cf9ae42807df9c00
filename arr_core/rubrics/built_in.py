"""The rubrics that come with the package: what to look at in any picture or edit, written by hand."""

from __future__ import annotations

from .rubric import Rubric

BUILT_IN: dict[str, Rubric] = {
    "t2i": Rubric(
        name="text to image",
        task="t2i",
        criteria=(
            "Every object that the prompt names is in the image, and nothing that contradicts the prompt is.",
            "Each object has the colour, material, size and other attributes that the prompt gives to it and not to another.",
            "The number of each object is the number that the prompt asks for.",
            "Objects stand and act in the relations that the prompt states: left, right, above, holding, behind.",
            "Words that the prompt wants written are there, spelled as it spells them.",
            "The style, medium and mood are those that the prompt asks for.",
            "Anatomy, perspective and light are coherent: no extra limbs, fused objects or impossible shadows.",
            "The image is free of artifacts: no smears, seams, noise, garbled text or watermarks.",
            "The composition is balanced, the subject is clear, and the image is pleasant to look at.",
        ),
    ),
    "edit": Rubric(
        name="image editing",
        task="edit",
        criteria=(
            "The change that the instruction asks for is made, completely, and to the right thing.",
            "Everything that the instruction does not mention is as it was in the BASE image: identity, pose, text, background.",
            "The edited region blends with its surroundings: no halo, seam or change of sharpness at its border.",
            "Light, shadow, colour and perspective of the change agree with the BASE image.",
            "The image is free of new artifacts: no smears, noise, distortions or lost detail.",
        ),
    ),
    "t2i zh": Rubric(
        name="文生图",
        task="t2i",
        language="zh",
        criteria=(
            "提示词中提到的每个对象都出现在图中，且图中没有与提示词相矛盾的内容。",
            "每个对象的颜色、材质、大小等属性都与提示词一致，没有张冠李戴。",
            "每种对象的数量与提示词要求的数量一致。",
            "对象之间的位置与互动关系符合提示词的描述，例如左右、上下、前后、手持、遮挡。",
            "提示词要求写出的文字出现在画面中，且一字不差。",
            "风格、媒介和氛围符合提示词的要求。",
            "人体结构、透视和光影合理：没有多余的肢体、粘连的物体或不可能出现的阴影。",
            "画面没有瑕疵：没有涂抹痕迹、接缝、噪点、乱码文字或水印。",
            "构图均衡，主体明确，画面赏心悦目。",
        ),
    ),
    "edit zh": Rubric(
        name="图像编辑",
        task="edit",
        language="zh",
        criteria=(
            "指令要求的修改已完整实现，并且改在了正确的对象上。",
            "指令没有提到的内容都与原图（BASE）保持一致：人物身份、姿态、文字和背景。",
            "修改区域与周围自然融合：边缘没有光晕、接缝或清晰度突变。",
            "修改部分的光线、阴影、色调和透视与原图（BASE）协调一致。",
            "画面没有新增的瑕疵：没有涂抹痕迹、噪点、变形或细节丢失。",
        ),
    ),
}

# The question without a rubric, which a rubric must beat. One criterion that asks for everything, so that every judge and
# form of reply takes it as it takes any other.
NO_RUBRIC: dict[str, Rubric] = {
    "t2i": Rubric(
        name="no rubric", task="t2i", criteria=("All in all, it is a good image for this prompt.",)
    ),
    "edit": Rubric(
        name="no rubric",
        task="edit",
        criteria=("All in all, it is a good edit of BASE for this instruction.",),
    ),
}
