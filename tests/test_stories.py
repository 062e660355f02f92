"""The story world: large and varied enough, every story in itself consistent, and its count of bits a true bound."""

import hashlib
import itertools
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from tiny import ROOT

import stories
from stories import ANSWERS, HEROES, LESSONS, MOODS, NAMES, OBJECTS, PLACES, PLOTS, THINGS, is_coherent, read_plots, tell, vocabulary, words, world

COUNT = 2000


@pytest.fixture(scope="module")
def told():
    """2000 stories, each with the lines that were chosen for it and the sizes of all choices."""
    results, lines, sizes = [], [], []

    class Recording(stories.Choices):
        def one(self, options):
            chosen = super().one(options)
            sizes.append(len(options))
            if isinstance(chosen, list):               # a compiled line; all else is text, a number or a tuple
                lines.append(chosen)
            return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stories, "Choices", Recording)
        for seed in range(COUNT):
            lines, sizes = [], []
            results.append((tell(seed), lines, sizes))
    return results


# ------------------------------------------------------------------ how large the world is

def test_there_are_40_plots_or_more_with_a_chain_of_beats_each():
    plots, _ = world()
    assert len(plots) >= 40 and len({plot.name for plot in plots}) == len(plots)
    for plot in plots:
        assert sum(not optional for _, optional, _ in plot.beats) >= 5, plot.name
        assert not plot.beats[0][1] and not plot.beats[-1][1], plot.name


def test_every_beat_has_8_or_more_differently_built_lines():
    plots, shared = world()
    beats = [(plot.name, name, lines) for plot in plots for name, _, lines in plot.beats] + [("shared", *beat) for beat in shared.items()]
    for plot, name, lines in beats:
        built = {" ".join(skeletons(line)) for line in lines}
        assert len(built) >= 8, (plot, name)
        assert len(built) == len(lines), (plot, name)


def test_heroes_objects_and_places_are_as_many_as_promised():
    assert len(HEROES) >= 60 and len(NAMES) == len(HEROES)
    kinds = Counter(kind for _, kind, _ in HEROES)
    assert kinds["girl"] >= 10 and kinds["boy"] >= 10 and len(kinds) >= 20
    assert {(kind, pronoun) for _, kind, pronoun in HEROES if kind in ("girl", "boy")} == {("girl", "she"), ("boy", "he")}
    assert {pronoun for _, _, pronoun in HEROES} == {"she", "he"}
    assert len(THINGS) >= 80 and sum(len(things.split()) for things, _ in OBJECTS.values()) == len(THINGS)
    assert len({place for group in PLACES.values() for place in group.split(",")}) >= 30
    assert len(MOODS) >= 5 and len(LESSONS) >= 10


def test_the_vocabulary_has_1000_to_1800_words_and_stories_use_no_others(told):
    used = {word for story, _, _ in told for word in words(story.text)}
    assert 1000 <= len(vocabulary()) <= 1800
    assert used <= vocabulary()
    assert len(used) >= 1000


def test_every_plot_is_told_and_no_story_twice(told):
    assert {story.facts["plot"] for story, _, _ in told} == {plot.name for plot in world()[0]}
    assert len({story.body for story, _, _ in told}) == COUNT


@pytest.mark.parametrize("path", sorted(PLOTS.glob("*.txt")), ids=lambda path: path.name)
def test_the_proof_reader_has_no_complaints(path):
    if path.name != "shared.txt":
        complaints, lengths, _, bits = stories.check(path, stories=40)
        assert complaints == []
        assert len(lengths) == len(bits) == 40 * len(read_plots(path))


# ------------------------------------------------------------------ how a story reads

def skeletons(line):
    """The sentences of a compiled line, slots and free choices blanked."""
    text = "".join(part if isinstance(part, str) else "¶" if part[0][:1].isupper() else "_" for part in line)
    sentences = re.split(r'(?<=[.!?])\s+(?="?(?:[A-Z¶]|\{[A-Z]))|(?<=[.!?]")\s+(?="?(?:[A-Z¶]|\{[A-Z]))', text)
    return [re.sub(r"\{\w+\}|¶", "_", sentence) for sentence in sentences]


def test_sentences_are_told_apart_and_blanked():
    compiled = stories.compile_line('{Hero} (ran|went) to {place}. "(Oh!|No!) Come back!" {he} cried. (Soon|Then) it was (very |)late! Why?')
    assert skeletons(compiled) == ['_ _ to _.', '"_ Come back!" _ cried.', "_ it was _late!", "Why?"]


def test_no_sentence_skeleton_of_the_story_itself_makes_up_more_than_one_percent(told):
    counted = Counter(skeleton for _, lines, _ in told for line in lines for skeleton in skeletons(line))
    skeleton, times = counted.most_common(1)[0]
    assert counted.total() > 8 * COUNT
    assert times <= 0.01 * counted.total(), f"{100 * times / counted.total():.2f} %: {skeleton}"


def test_lengths_run_from_60_to_250_words(told):
    lengths = [len(words(story.body)) for story, _, _ in told]
    assert 60 <= min(lengths) and max(lengths) <= 250
    assert max(lengths) - min(lengths) > 50


def test_every_story_is_clean_text(told):
    for story, _, _ in told:
        assert re.fullmatch(r"[A-Za-z '\",.!?;:\n-]+", story.text), story.text
        assert not re.search(r"  | \n|\n |\n\n| [,.!?;:]|[,.]{2}|\b[Aa] [aeiou]|\b[Aa]n (?!hour|honest)[^aeiou]|\b[Aa]n (one|once|use|uni)", story.text), story.text
        assert story.body.count('"') % 2 == 0 and story.body[-1] in '.!?"' and story.body.count("\n") == 2, story.body


def test_every_story_keeps_its_hero_and_its_object(told):
    for story, _, _ in told:
        assert is_coherent(story.body), story.body


def test_the_facts_of_a_story_stand_in_its_text(told):
    for story, _, _ in told:
        facts = story.facts
        assert facts.keys() == {"plot", "hero", "friend", "place", "thing", "mood", "lesson"}
        for fact in ("hero", "friend", "place", "thing", "mood", "lesson"):
            assert facts[fact] is None or re.search(rf"\b{facts[fact]}\b", story.body, re.IGNORECASE), (fact, facts, story.body)
        assert facts["hero"] in NAMES and facts["mood"] in MOODS and facts["lesson"] in {None, *LESSONS.values()}
        assert {name for name in re.findall(r"[A-Z][a-z]+", story.body) if name in NAMES} == {facts["hero"], facts["friend"]} - {None}
        assert (facts["lesson"] is None) == (not any(lesson in story.body.lower() for lesson in LESSONS.values()))
    assert 0.5 < sum(story.facts["lesson"] is not None for story, _, _ in told) / COUNT < 0.85


def test_the_pronouns_are_those_of_the_persons_in_the_story(told):
    """Where nobody else is about, no other pronoun can be: a he among girls alone would be a joint that shows."""
    gender = {name: pronoun for name, _, pronoun in HEROES}
    seen = 0
    for story, _, _ in told:
        persons = {gender[name] for name in (story.facts["hero"], story.facts["friend"]) if name}
        others = {"she": "he him his himself", "he": "she her hers herself"}
        if len(persons) == 1 and not re.search(r"\b(mother|father|grandma|grandpa|aunt|uncle|man|woman|teacher|king|queen)\b", story.body):
            seen += 1
            spoken = re.sub(r'"[^"]*"', "", story.body)
            assert not set(others[persons.pop()].split()) & set(words(spoken)), story.body
    assert seen > COUNT / 10


def test_most_stories_end_with_two_or_three_questions(told):
    numbers = Counter(len(story.questions) for story, _, _ in told)
    assert numbers.keys() == {0, 2, 3}
    assert numbers[2] + numbers[3] > 0.8 * COUNT and numbers[3] > numbers[2]
    for story, _, _ in told:
        lines = story.text.split("\n")
        assert "\n".join(lines[:3]) == story.body
        assert lines[3:] == [f"Question: {question} Answer: {answer}" for question, answer in story.questions]
        assert len({question for question, _ in story.questions}) == len(story.questions)


def test_every_answer_follows_from_the_text_of_its_story(told):
    asked = Counter()
    for story, _, _ in told:
        (plot,) = (plot for plot in world()[0] if plot.name == story.facts["plot"])
        preposition = {f"the {noun}": word for group in PLACES.values() for word, noun in (pair.split() for pair in group.split(","))}
        facts = story.facts
        right = facts | {"thing": f"the {facts['thing']}", "place": f"{preposition[facts['place']]} {facts['place']}"}
        for question, answer in story.questions:
            slots = facts | {"thing": facts["thing"].split()[-1]}
            (fact,) = {fact for fact, texts in plot.questions.items() for text in texts
                       if text.format_map(slots) == re.sub(r"\ban ", "a ", question)}
            asked[fact] += 1
            assert answer == right[fact][0].upper() + right[fact][1:] + ".", (question, answer, facts)
            assert question.endswith("?") and answer[:-1].lower() not in question.lower(), (question, answer)
    assert asked.keys() == set(ANSWERS) and min(asked.values()) > 200


# ------------------------------------------------------------------ reading a story back

def swapped(body, word, other, first=0):
    """Body with the last mention of a word, or all from `first` on, replaced by another."""
    places = [match.span() for match in re.finditer(rf"\b{word}\b", body)][first:]
    for begin, end in reversed(places):
        body = body[:begin] + other + body[end:]
    return body, len(places)


def test_a_story_that_swaps_its_hero_is_refused(told):
    for story, _, _ in told[:500]:
        stranger = random.Random(story.body).choice(sorted(NAMES - {story.facts["hero"], story.facts["friend"]}))
        for first in (-1, 1):                          # in the last mention alone, in all but the first
            assert not is_coherent(swapped(story.body, story.facts["hero"], stranger, first)[0]), (stranger, story.body)


def test_a_story_that_forgets_its_hero_for_the_friend_is_refused(told):
    some = [story for story, _, _ in told if story.facts["friend"]][:300]
    for story in some:
        paragraph, rest = story.body.split("\n", 1)
        assert not is_coherent(paragraph + "\n" + swapped(rest, story.facts["hero"], story.facts["friend"])[0])
    assert len(some) == 300


def test_a_story_whose_friend_has_the_hero_s_name_is_refused(told):
    some = [story for story, _, _ in told if story.facts["friend"]][:300]
    for story in some:
        assert not is_coherent(swapped(story.body, story.facts["friend"], story.facts["hero"])[0]), story.body
    assert len(some) == 300


def test_a_story_with_a_third_name_is_refused(told):
    some = [story for story, _, _ in told if story.facts["friend"]][:100]
    for story in some:
        stranger = next(name for name in sorted(NAMES) if name not in (story.facts["hero"], story.facts["friend"]))
        assert is_coherent(f"{story.body} A fox came by.")
        assert not is_coherent(f"{story.body} A fox named {stranger} came by.")


def test_a_story_that_swaps_its_object_is_refused(told):
    seen = 0
    for story, _, _ in told[:500]:
        look, thing = story.facts["thing"].split()
        other = random.Random(story.body).choice(sorted(THINGS.keys() - {thing}))
        body, _ = swapped(story.body, thing, other, first=-1)
        if thing in words(body):                       # mentioned more than once
            seen += 1
            assert not is_coherent(body), (other, story.body)
    assert seen > 400


def test_a_story_that_changes_the_look_of_its_object_is_refused(told):
    seen = 0
    for story, _, _ in told[:500]:
        look, thing = story.facts["thing"].split()
        other = next(adjective for adjective in THINGS[thing] if adjective != look)
        if story.body.count(f"{look} {thing}") > 1:
            seen += 1
            before, after = story.body.rsplit(f"{look} {thing}", 1)
            assert not is_coherent(f"{before}{other} {thing}{after}"), story.body
    assert seen > 100


def test_a_story_without_a_hero_or_an_object_is_refused(told):
    for story, _, _ in told[:100]:
        if not story.facts["friend"] or story.facts["friend"] not in story.body.split("\n")[0]:
            assert not is_coherent(swapped(story.body, story.facts["hero"], "somebody")[0]), story.body
        assert not is_coherent(swapped(story.body, story.facts["thing"].split()[1], "something")[0])
        assert not is_coherent(story.body.split("\n")[0])
    assert not is_coherent("") and not is_coherent("\n")


# ------------------------------------------------------------------ the seed and the bits

def test_the_seed_decides_the_story():
    for seed in (0, 1, 12345, 10**9, 2**70):
        assert tell(seed) == tell(seed)
    assert len({tell(seed).text for seed in range(200)}) == 200


def test_a_story_is_the_same_in_every_process_whatever_the_order_of_sets():
    program = ("import sys, hashlib; sys.path.insert(0, sys.argv[1]); from stories import tell\n"
               "print(hashlib.sha256(repr([tell(seed) for seed in range(100)]).encode()).hexdigest())")
    expected = hashlib.sha256(repr([tell(seed) for seed in range(100)]).encode()).hexdigest()
    for hash_seed in "1", "2":
        done = subprocess.run([sys.executable, "-c", program, str(ROOT / "data")], capture_output=True, text=True, timeout=60,
                              env=os.environ | {"PYTHONHASHSEED": hash_seed})
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_telling_leaves_the_generator_of_others_alone():
    random.seed(3)
    expected = [random.random() for _ in range(2)]
    random.seed(3)
    assert [random.random(), tell(5) and random.random()] == expected


def test_the_bits_of_a_story_are_the_sum_of_its_choices(told):
    for story, _, sizes in told:
        assert story.bits == pytest.approx(sum(math.log2(size) for size in sizes), rel=1e-12)
        assert story.bits > 50


def test_choices_are_uniform():
    choices, options = stories.Choices(4), "abcdefg"
    counted = Counter(choices.one(options) for _ in range(70_000))
    assert counted.keys() == set(options)
    assert all(abs(times - 10_000) < 5 * math.sqrt(10_000 * 6 / 7) for times in counted.values())
    assert choices.bits == pytest.approx(70_000 * math.log2(7), rel=1e-12)


TINY_SHARED = """== shared
-- opening
{Hero} was a {hero_kind}.
-- feeling
{He} was {mood}.
-- lesson
{Lesson}.
"""
TINY_PLOT = """== Tiny
thing: toy
place: outside
mood: happy
lesson: try
ask hero: Who?
ask thing: What?
ask place: Where?
-- setting
{Hero} took {his} {adj} {thing} to {place}.
-- one
It (rained|rained|snowed).
-- ending
Home!
--? end
The end.
-- end
Bye, {hero}.
"""


def every_telling(monkeypatch, tmp_path):
    """Every story of a tiny world, (probability, story), by walking through all choices like an odometer."""
    monkeypatch.setattr(stories, "HEROES", HEROES[:1])
    monkeypatch.setattr(stories, "OBJECTS", {"toy": ("kite", "red blue")})
    monkeypatch.setattr(stories, "PLACES", {"outside": "in park"})
    monkeypatch.setattr(stories, "QUESTIONS", {"mood": "How?", "lesson": "Why?"})
    (tmp_path / "shared.txt").write_text(TINY_SHARED, encoding="utf-8")
    (tmp_path / "tiny.txt").write_text(TINY_PLOT, encoding="utf-8")
    (shared,), plots = read_plots(tmp_path / "shared.txt"), read_plots(tmp_path / "tiny.txt")
    monkeypatch.setattr(stories, "world", lambda: (plots, {name: lines for name, _, lines in shared.beats}))
    script, sizes, turn = [], [], itertools.count()

    class Walking(stories.Choices):
        def one(self, options):
            i = next(turn)
            if i == len(script):
                script.append(0)
            sizes.append(len(options))
            self.random = lambda: (script[i] + 0.5) / len(options)
            return super().one(options)

    monkeypatch.setattr(stories, "Choices", Walking)
    while True:
        sizes, turn = [], itertools.count()
        yield 1 / math.prod((story := tell(0), sizes)[1]), story
        while script and script[-1] == sizes[len(script) - 1] - 1:
            script.pop()
        if not script:
            return
        script[-1] += 1


def test_the_mean_of_the_bits_bounds_the_entropy_of_the_text(monkeypatch, tmp_path):
    """On a world small enough to tell every story: its exact entropy lies below, since some choices lead to the same text."""
    tellings = list(every_telling(monkeypatch, tmp_path))
    texts = Counter()
    for probability, story in tellings:
        assert story.bits == pytest.approx(-math.log2(probability), rel=1e-12)
        texts[story.text] += probability
    assert len(tellings) > 5000 and sum(texts.values()) == pytest.approx(1, rel=1e-12)
    entropy = -sum(probability * math.log2(probability) for probability in texts.values())
    bound = sum(probability * story.bits for probability, story in tellings)
    assert entropy < bound
    # What is lost in the text: which of two equal options was taken (2/3 of a bit), whether a lesson is told (two of three
    # options say so) and how many questions are asked (eight options for three numbers).
    lost = 2 / 3 + 2 / 3 + 2 / 8 * 1 + 5 / 8 * math.log2(5)
    assert bound - entropy == pytest.approx(lost, rel=1e-9)
