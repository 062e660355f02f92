"""A story world: a seeded generator of short children's stories in plain English.

    python data/stories.py                 # tell a story
    python data/stories.py --seed 7 --count 3
    python data/stories.py --check data/plots/lost.txt    # proof-read a file of plots

A story is a chain of beats. The opening, the closing feeling and the lesson are
shared by all plots (`plots/shared.txt`); what lies between belongs to one plot.
A plot file is plain text:

    == The kite in the tree        a plot and its name
    thing: toy clothes             groups of OBJECTS that fit
    place: outside                 groups of PLACES that fit
    mood: proud thankful           MOODS the hero may end in
    lesson: ask                    LESSONS that the plot teaches
    ask thing: What got stuck?     questions about a fact, several apart by |
    -- setting                     a beat: one of its lines is told
    --? second attempt             a beat that is told half of the time
    {When}, {hero} (took|brought) {his} {adj} {thing} to {place}.

`{slot}` is filled from the facts of the story, `(a|b)` is a free choice. Every
choice is counted in bits: over many stories the mean of `Story.bits` bounds the
entropy of the text from above, and so tells how low a model's loss can get.
"""

import argparse
import functools
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PLOTS = Path(__file__).parent / "plots"

PRONOUNS = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself")}

HEROES = [                                             # name, kind, pronoun
    *((name, "girl", "she") for name in "Mia Anna Lily Zoe Ruby Nora Ella Rosa Ivy Hana Tara Lucy Maya Suki Emma Dora".split()),
    *((name, "boy", "he") for name in "Tom Ben Max Leo Sam Jack Noah Omar Finn Ravi Hugo Luca Theo Adam Kofi Paul".split()),
    *((name, kind, "she") for name, kind in (pair.split() for pair in (
        "Hazel squirrel,Clover rabbit,Dot mouse,Luna owl,Tilly duck,Pearl kitten,Misty pony,Poppy hen,Bella lamb,"
        "Daisy calf,Minnie mole,Coco monkey,Willow deer,Penny penguin").split(","))),
    *((name, kind, "he") for name, kind in (pair.split() for pair in (
        "Pip fox,Bruno bear,Biscuit puppy,Moss frog,Waldo turtle,Rusty badger,Gus goose,Otto otter,Chip beaver,"
        "Spike hedgehog,Barney donkey,Toby goat,Ziggy lizard,Bert pig").split(","))),
]

OBJECTS = {                                            # group: (objects, what they may look like)
    "toy": ("kite ball drum doll boat train puppet robot marble balloon wagon scooter whistle puzzle rocket teddy plane truck",
            "red blue green yellow little new striped"),
    "clothes": ("hat scarf coat mitten boot sock cap glove ribbon sweater apron cape",
                "red blue green yellow warm purple striped"),
    "treasure": ("shell coin key ring feather bell lantern crown gem bead button mirror map locket medal compass",
                 "shiny golden silver tiny old pretty"),
    "food": ("cake pie apple pear carrot cookie bun sandwich muffin melon pumpkin plum pancake peach berry loaf",
             "sweet big fresh little lovely"),
    "tool": ("book basket bucket umbrella brush pencil broom blanket pillow cup bowl spoon rope ladder shovel clock flute teapot",
             "old new red blue little big yellow"),
}

PLACES = {                                             # group: preposition and place
    "outside": "in park,in garden,in meadow,on hill,in forest,in field,at farm,in orchard,at playground,"
               "by bridge,in valley,at market,in village",
    "water": "at beach,by lake,by river,by pond,at harbor",
    "inside": "at school,in library,in kitchen,in barn,in attic,at bakery,in museum,at station,in mill,in tower,"
              "in cottage,in lighthouse",
}

MOODS = "happy proud thankful calm brave cheerful safe hopeful".split()

LESSONS = {
    "ask": "it is fine to ask for help",
    "brave": "you can be afraid and brave at once",
    "calm": "a calm head finds the way",
    "care": "we should take care of our things",
    "careful": "slow and careful is often faster",
    "curious": "a good question can open any door",
    "different": "everyone is good at something",
    "friends": "a new friend may be very near",
    "greed": "wanting too much can spoil the fun",
    "honest": "the truth is best even when it is hard",
    "kind": "kindness always finds its way back",
    "listen": "it is wise to listen first",
    "nature": "wild things like to be free",
    "patience": "good things take time",
    "practice": "hard things grow easy with practice",
    "promise": "a promise is there to be kept",
    "share": "good things are better when we share them",
    "small": "small helpers can do big things",
    "sorry": "one honest sorry can mend a lot",
    "team": "work is lighter when we do it together",
    "thanks": "it feels good to say thank you",
    "try": "it pays to try once more",
}

MACROS = {                                             # shorthand for choices that many lines share
    "when": "(one|on a) (sunny|windy|cloudy|warm|cold|quiet|bright|foggy) (morning|afternoon|day)",
    "When": "(One|On a) (sunny|windy|cloudy|warm|cold|quiet|bright|foggy) (morning|afternoon|day)",
    "new_friend": "a (kind|clever|friendly|cheerful|gentle|young) {friend_kind} (named|called) {friend}",
    "New_friend": "A (kind|clever|friendly|cheerful|gentle|young) {friend_kind} (named|called) {friend}",
}

QUESTIONS = {                                          # asked of every plot that gives no better ones
    "mood": "How did {hero} feel at the end?|How did {hero} feel when it was over?|"
            "At the end, how was {hero}?|What did {hero} feel when the story ended?",
    "lesson": "What did {hero} learn?|What is the lesson of the story?|What does the story teach us?",
}
ANSWERS = {"hero": "{hero}", "friend": "{friend}", "place": "{at}", "thing": "the {adj} {thing}",
           "mood": "{mood}", "lesson": "{lesson}"}


class Story(NamedTuple):
    body: str                # the story itself, in paragraphs
    questions: list          # pairs of question and answer, none to three
    facts: dict              # plot, hero, friend (the helper, or None), place, thing, mood, lesson (or None)
    bits: float              # the choices spent on it, in bits

    @property
    def text(self):
        return "\n".join([self.body, *(f"Question: {question} Answer: {answer}" for question, answer in self.questions)])


class Plot(NamedTuple):
    name: str
    head: dict               # thing, place, mood, lesson: the values that fit
    questions: dict          # fact: its questions
    beats: list              # (name, optional, lines), each line compiled by `compile_line`


def compile_line(line):
    """'The (big|small) {thing}' → ['The ', ['big', 'small'], ' {thing}']: fixed text and free choices in turn."""
    for name, choices in MACROS.items():
        line = line.replace("{%s}" % name, choices)
    return [part.split("|") if i % 2 else part for i, part in enumerate(re.split(r"\(([^()]*)\)", line))]


def read_plots(path):
    """All plots of one file."""
    plots = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("=="):
            plots.append(Plot(line[2:].strip(), {}, {fact: text.split("|") for fact, text in QUESTIONS.items()}, []))
        elif line.startswith("--"):
            plots[-1].beats.append((line.lstrip("-? "), line.startswith("--?"), []))
        elif not plots[-1].beats:
            key, _, value = line.partition(":")
            if key.startswith("ask "):
                plots[-1].questions[key[4:]] = [question.strip() for question in value.split("|")]
            else:
                plots[-1].head[key] = value.split()
        else:
            plots[-1].beats[-1][2].append(compile_line(line))
    return [prepare(plot) for plot in plots]


def prepare(plot):
    """Replace the groups that a plot names by the objects and places themselves."""
    head = dict(plot.head)
    if "thing" in head:
        head["thing"] = [(thing, adjective) for group in head["thing"] for thing in OBJECTS[group][0].split()
                         for adjective in OBJECTS[group][1].split()]
        head["place"] = [(f"the {noun}", f"{preposition} the {noun}") for group in head["place"]
                         for preposition, noun in (pair.split() for pair in PLACES[group].split(","))]
    return plot._replace(head=head)


@functools.cache
def world():
    """(plots, shared beats by name) of all files in `plots/`."""
    (shared,) = read_plots(PLOTS / "shared.txt")
    plots = [plot for path in sorted(PLOTS.glob("*.txt")) if path.name != "shared.txt" for plot in read_plots(path)]
    return plots, {name: lines for name, _, lines in shared.beats}


def miniature():
    """A plot without any beats of its own: the hero, the feeling, the lesson. Its stories are what a model learns to look back from."""
    questions = {"hero": ["Who is the story about?"]} | {fact: text.split("|") for fact, text in QUESTIONS.items()}
    head = {"thing": [("kite", "red")], "place": [("the park", "in the park")], "mood": MOODS, "lesson": list(LESSONS)}
    return Plot("a miniature", head, questions, [])


class Choices:
    """A random number generator that counts the bits it spends. Uses `random()` alone, which never changes with Python."""

    def __init__(self, seed):
        self.random, self.bits = random.Random(seed).random, 0.0

    def one(self, options):
        self.bits += math.log2(len(options))
        return options[int(self.random() * len(options))]

    def line(self, lines):
        return "".join([part if isinstance(part, str) else self.one(part) for part in self.one(lines)])


def person(role, name, kind, pronoun):
    he, him, his, himself = PRONOUNS[pronoun]
    prefix = "" if role == "hero" else "friend_"
    slots = {role: name, f"{role}_kind": kind, f"{prefix}he": he, f"{prefix}him": him, f"{prefix}his": his, f"{prefix}himself": himself}
    return slots | {slot.capitalize(): text.capitalize() for slot, text in slots.items()}


def with_article(text):
    """'a apron' → 'an apron'"""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def tell(seed, plot=None):
    """The `Story` of a seed, of a plot of its own choice or of the one given."""
    plots, shared = world()
    choices = Choices(seed)
    plot = plot or choices.one(plots)

    hero = choices.one(HEROES)
    slots = person("hero", *hero)
    has_friend = "friend" in plot.questions
    if has_friend:
        slots |= person("friend", *choices.one([other for other in HEROES if other is not hero]))
    slots["thing"], slots["adj"] = choices.one(plot.head["thing"])
    slots["place"], slots["at"] = choices.one(plot.head["place"])
    slots["mood"] = choices.one(plot.head["mood"])
    slots["lesson"] = LESSONS[choices.one(plot.head["lesson"])]
    for slot in ("thing", "place", "at", "mood", "lesson"):
        slots[slot.capitalize()] = slots[slot].capitalize()

    beats = [choices.line(lines) for _, optional, lines in plot.beats if not optional or choices.one((True, False))]
    opening, middle, ending = [choices.line(shared["opening"]), *beats[:1]], beats[1:-1], [*beats[-1:], choices.line(shared["feeling"])]
    has_lesson = choices.one((True, True, False))
    if has_lesson:
        ending.append(choices.line(shared["lesson"]))
    body = "\n".join(" ".join(paragraph) for paragraph in (opening, middle, ending) if paragraph)

    askable = [fact for fact in plot.questions if fact != "lesson" or has_lesson]
    questions = []
    for _ in range(min(choices.one((0, 2, 2, 3, 3, 3, 3, 3)), len(askable))):
        fact = choices.one(askable)
        askable.remove(fact)
        answer = ANSWERS[fact].format_map(slots)
        questions.append((with_article(choices.one(plot.questions[fact]).format_map(slots)), answer[0].upper() + answer[1:] + "."))

    body = with_article(body.format_map(slots))
    facts = {"plot": plot.name, "hero": slots["hero"], "friend": slots.get("friend"), "place": slots["place"],
             "thing": slots["adj"] + " " + slots["thing"], "mood": slots["mood"], "lesson": slots["lesson"] if has_lesson else None}
    return Story(body, questions, facts, choices.bits)


# ------------------------------------------------------------------ reading a story back

NAMES = {name for name, _, _ in HEROES}
THINGS = {thing: adjectives.split() for things, adjectives in OBJECTS.values() for thing in things.split()}


def words(text):
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


@functools.cache
def vocabulary(path=None):
    """Every word that the world can say, or that one file of plots adds to the lists and the shared lines."""
    plots, shared = world()
    plots = read_plots(path) if path else plots
    texts = ["question answer", *LESSONS.values(), *MOODS, *NAMES, *THINGS]
    texts += [text for _, kind, pronoun in HEROES for text in (kind, *PRONOUNS[pronoun])]
    texts += [adjectives for _, adjectives in OBJECTS.values()] + [*PLACES.values(), "the a an"]
    texts += [question for plot in plots for questions in plot.questions.values() for question in questions]
    lines = [line for plot in plots for _, _, beat in plot.beats for line in beat] + sum(shared.values(), [])
    texts += [text for line in lines for part in line for text in ([part] if isinstance(part, str) else part)]
    return {word for text in texts for word in words(re.sub(r"\{\w+\}", " ", text))}


def is_coherent(body):
    """Whether a story keeps its hero and its object straight from start to end.

    The first name is the hero, told in the first paragraph and again after it; at most one more
    name appears, the friend's, who is introduced once, as "a fox named Pip", and not under the hero's name; one object of
    the world appears, always the same, and it never changes what it looks like.
    """
    names = [word for word in re.findall(r"[A-Z][a-z]+", body) if word in NAMES]
    if not names:
        return False
    hero, friend = names[0], set(names) - {names[0]}
    kinds = "|".join({kind for _, kind, _ in HEROES})
    introduced = re.findall(rf"\b(?:{kinds}) (?:named|called) ([A-Z][a-z]+)\b", body.partition(hero)[2])
    tokens = words(body)
    things = [(before, word) for before, word in zip(tokens, tokens[1:]) if word in THINGS]
    looks = {before for before, word in things if before in THINGS[word]}
    first, _, rest = body.partition("\n")
    return (hero in first and hero in rest and len(friend) <= 1 and introduced == list(friend)
            and len({word for _, word in things}) == 1 and len(looks) == 1)


# ------------------------------------------------------------------ proof-reading a file of plots

def check(path, stories=300):
    """Complaints about a file of plots: what every plot must have, what its stories must keep."""
    reserved = set(THINGS) | {pair.split()[1] for group in PLACES.values() for pair in group.split(",")} | {n.lower() for n in NAMES}
    complaints, lengths, counted, bits = [], [], Counter(), []
    for plot in read_plots(path):
        say = lambda text: complaints.append(f"{plot.name}: {text}")
        for key in ("thing", "place", "mood", "lesson"):
            if not plot.head.get(key):
                say(f"no '{key}:'")
        for fact in set(plot.questions) - set(ANSWERS):
            say(f"'ask {fact}:' is no fact; facts are {', '.join(ANSWERS)}")
        if not {"hero", "thing", "place"} <= set(plot.questions):
            say("needs 'ask hero:', 'ask thing:' and 'ask place:'")
        unknown = set(plot.head["mood"]) - set(MOODS) | set(plot.head["lesson"]) - set(LESSONS)
        if unknown:
            say(f"unknown mood or lesson {unknown}")
        if len(plot.beats) < 5:
            say("fewer than 5 beats")
        introductions = 0
        for name, optional, lines in plot.beats:
            flat = ["".join(part if isinstance(part, str) else part[0] for part in line) for line in lines]
            if len(flat) < 8:
                say(f"beat '{name}' has {len(flat)} lines, needs 8")
            if len({re.sub(r"\{\w+\}|\W", "", line)[:14] for line in flat}) < len(flat) - 1:
                say(f"beat '{name}': lines begin too much alike")
            choices = sum(len(line) // 2 for line in lines) / max(len(lines), 1)
            if choices < 2:
                say(f"beat '{name}': {choices:.1f} choices (a|b) a line, wants 2 to 3")
            told = [sum("{friend_kind} " in (part if isinstance(part, str) else "|".join(part)) for part in line) for line in lines]
            if any(told):
                introductions += 1
                if optional or min(told) == 0:
                    say(f"beat '{name}': {{new_friend}} must stand in every line of one beat that is always told")
            for line in lines:
                for part in line:
                    for text in [part] if isinstance(part, str) else part:
                        taken = reserved & set(words(re.sub(r"\{\w+\}", " ", text)))
                        if taken:
                            say(f"'{text.strip()}': {taken} belong to the lists, use a slot or another word")
        if introductions != ("friend" in plot.questions):
            say(f"{introductions} beats introduce a {{new_friend}}, 'ask friend:' is {'friend' in plot.questions}")
        for seed in range(stories):
            try:
                story = tell(seed, plot)
            except (KeyError, IndexError, ValueError) as error:
                say(f"unknown slot or a bad line: {error!r}")
                break
            n = len(words(story.body))
            lengths.append(n)
            bits.append(story.bits)
            counted.update(set(words(story.body)))
            missing = [fact for fact in ("hero", "friend", "place", "thing", "mood") if story.facts[fact] and story.facts[fact] not in story.body]
            if missing or not is_coherent(story.body) or not 60 <= n <= 250 or re.search(r"  |[{}|()]| [,.!?]|[a-z]\n", story.body) \
                    or story.body.count('"') % 2 or re.search(r"(^|[.!?] |\n)[a-z]", re.sub(r'[!?.,]" [a-z]', "", story.body)):
                say(f"seed {seed}: missing {missing}, coherent {is_coherent(story.body)}, {n} words:\n    {story.body!r}")
                break
    return complaints, lengths, counted, bits


def main():
    parser = argparse.ArgumentParser(description="Tell stories of the story world.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--check", type=Path, metavar="FILE", help="proof-read a file of plots")
    arguments = parser.parse_args()
    if arguments.check:
        complaints, lengths, counted, bits = check(arguments.check)
        print("\n".join(complaints) or "no complaints")
        print(f"{min(lengths)} to {max(lengths)} words a story, mean {sum(lengths) / len(lengths):.0f}; "
              f"{sum(bits) / len(bits):.0f} bits a story")
        common = vocabulary(PLOTS / "wind.txt")
        own = sorted(vocabulary(arguments.check) - common)
        print(f"{len(own)} words beyond those of shared.txt and wind.txt: {' '.join(own)}")
        return
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        story = tell(seed)
        print(f"{story.text}\n\n[{story.bits:.0f} bits]\n")


if __name__ == "__main__":
    main()
