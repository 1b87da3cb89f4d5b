"""The words of the toy world: data only, its sentences are in `steerlens.toy.sentences`, the
mathematics in `steerlens.toy.hmm`.

A word class depends on one factor of the condition and lists its words by level, commonest first.
The levels are grades of sentiment (-1 ... 1), grades of tone (rude -1, plain 0, courteous 1),
topics, or `None` for classes that depend on nothing. A word belongs to one factor and one level
throughout; a literal of a template belongs to none. Classes that follow "a" hold no word that
begins with a vowel.
"""

SENTIMENTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
TONES = (-1.0, 0.0, 1.0)
TOPICS = ("films", "food", "books", "hotels", "music", "gadgets")

Levels = dict[float, str] | dict[str, str] | dict[None, str]

_QUALITY: dict[float, str] = {
    -1.0: """terrible horrible dreadful pathetic disgusting worthless miserable hideous disastrous revolting
    vile
        ghastly lousy catastrophic laughable rotten repulsive wretched horrendous putrid""",
    -0.5: """weak dull bland disappointing boring poor slow flat messy clumsy tedious stale shallow dreary
    lacking
        mediocre sloppy dated clunky tasteless lifeless tiresome forgettable hollow""",
    0.0: """passable standard plain typical mixed predictable basic familiar normal fair modest tolerable
    middling
        conventional moderate routine common simple so-so regular""",
    0.5: """good nice pleasant charming lovely solid likable satisfying decent fresh clever graceful polished
    tasteful
        rewarding refreshing worthy cheerful delicate commendable""",
    1.0: """superb wonderful fantastic brilliant perfect magnificent stunning marvelous glorious flawless
    breathtaking
        sensational terrific dazzling phenomenal splendid masterful spectacular sublime heavenly""",
}

# Only after a verb, never after "a".
_VOWEL_QUALITY: dict[float, str] = {
    -1.0: "awful atrocious abysmal unbearable appalling insufferable",
    -0.5: "awkward annoying unpleasant overpriced uninspired empty",
    0.0: "okay average ordinary acceptable unremarkable adequate uneven",
    0.5: "enjoyable engaging impressive inviting appealing agreeable",
    1.0: "excellent outstanding exquisite exceptional unforgettable astonishing amazing",
}

SENTIMENT_CLASSES: dict[str, dict[float, str]] = {
    "fine": _QUALITY,
    "quality": {grade: f"{_QUALITY[grade]} {_VOWEL_QUALITY[grade]}" for grade in SENTIMENTS},
    "adverb": {
        -1.0: """terribly horribly dreadfully atrociously disastrously appallingly miserably pathetically
            shamefully""",
        -0.5: "poorly clumsily lazily carelessly awkwardly weakly unevenly hastily sloppily",
        0.0: "adequately passably reasonably plainly acceptably simply tolerably moderately predictably",
        0.5: "nicely cleverly neatly pleasantly carefully skillfully smoothly gracefully tastefully",
        1.0: """superbly beautifully brilliantly wonderfully flawlessly perfectly magnificently masterfully
            exquisitely""",
    },
    "verdict": {
        -1.0: """disaster nightmare catastrophe travesty fiasco wreck failure torture scam farce crime
            disgrace""",
        -0.5: "letdown disappointment chore bore misfire muddle dud slog nuisance mistake bother shambles",
        0.0: "compromise mixture trifle formality curiosity pastime novelty diversion gamble puzzle routine",
        0.5: "treat pleasure success delight hit winner keeper comfort bargain favorite diamond",
        1.0: "masterpiece triumph marvel treasure joy gem revelation classic wonder miracle dream sensation",
    },
    "loved": {
        -1.0: "hated loathed despised detested abhorred cursed",
        -0.5: "disliked regretted doubted questioned endured resented criticised",
        0.0: "accepted tolerated expected judged weighed regarded",
        0.5: "liked enjoyed admired savored praised fancied",
        1.0: "loved adored cherished treasured worshipped relished",
    },
    "moved": {
        -1.0: "disgusted furious horrified cheated depressed sickened appalled outraged devastated robbed",
        -0.5: "bored disappointed restless annoyed frustrated uneasy sleepy irritated confused unimpressed",
        0.0: "indifferent undecided unmoved calm unsure ambivalent curious unsurprised uncertain untouched",
        0.5: "pleased happy satisfied amused content comfortable impressed entertained relaxed hopeful",
        1.0: "delighted thrilled enchanted ecstatic overjoyed spellbound elated amazed mesmerised captivated",
    },
    "advise": {
        -1.0: "burn ban trash boycott condemn destroy",
        -0.5: "skip avoid question reconsider postpone reject",
        0.0: "try consider borrow mention compare describe",
        0.5: "recommend revisit choose endorse suggest repeat",
        1.0: "celebrate cherish champion adore worship glorify",
    },
    "charm": {
        -1.0: "filth lies misery horrors disasters failures ugliness despair agony contempt greed cruelty",
        -0.5: """problems flaws gaps delays clutter cliches mistakes doubts weaknesses excuses complaints
            boredom""",
        0.0: "habits surprises details contrasts ideas conventions changes choices options quirks questions",
        0.5: "charm warmth wit humor care energy heart promise grace life polish comforts",
        1.0: """brilliance magic beauty genius perfection passion splendor grandeur excellence soul wonders
            joys""",
    },
    "shone": {
        -1.0: "failed flopped collapsed crashed imploded disintegrated",
        -0.5: "faltered stumbled struggled dragged wobbled drifted",
        0.0: "managed coped changed continued settled followed",
        0.5: "delivered succeeded improved worked charmed sparkled",
        1.0: "shone dazzled triumphed soared excelled conquered",
    },
    "better": {
        -1.0: "worse uglier nastier crueler sadder",
        -0.5: "weaker duller slower thinner colder",
        0.0: "longer shorter older quieter louder",
        0.5: "better stronger nicer brighter smarter",
        1.0: "greater finer grander lovelier mightier",
    },
    "react": {
        -1.0: "weep scream cry suffer flee",
        -0.5: "yawn sigh frown doze groan",
        0.0: "shrug wait pause blink listen",
        0.5: "smile laugh nod clap relax",
        1.0: "cheer rejoice applaud sing dance",
    },
    "stars": {-1.0: "zero", -0.5: "two", 0.0: "three", 0.5: "four", 1.0: "five"},
}

TONE_CLASSES: dict[str, dict[float, str]] = {
    "opener": {
        -1.0: "hey ugh duh pfft bah jeez yuck boo blah",
        0.0: "anyway overall now honestly basically actually well also",
        1.0: "respectfully kindly please gratefully sincerely humbly graciously cordially",
    },
    "crowd": {
        -1.0: "idiots morons clowns fools losers dimwits jerks numbskulls blockheads twits suckers nitwits",
        0.0: "people readers folks shoppers visitors customers users viewers fans locals students parents",
        1.0: "friends ladies gentlemen neighbors colleagues companions comrades helpers dears patrons",
    },
    "command": {
        -1.0: "stop quit dump ditch shove scrap chuck",
        0.0: "check note find take keep get",
        1.0: "forgive excuse pardon permit allow bless",
    },
    "damn": {
        -1.0: "damn bloody freaking damned flipping stinking darn goddamn",
        0.0: "very really quite rather pretty fairly somewhat too",
        1.0: "truly genuinely deeply earnestly thankfully delightfully",
    },
    "fellow": {
        -1.0: "moron clown fool jerk dimwit loser liar crook buffoon dunce nitwit bozo weasel",
        0.0: "person customer reader buyer stranger student visitor tourist shopper parent local passenger",
        1.0: "gentleman lady friend companion colleague scholar saint sweetheart darling neighbor",
    },
    "regard": {
        -1.0: "mock ridicule ignore despise pity scorn insult",
        0.0: "saw know noted follow got understand",
        1.0: "appreciate respect value honor admire esteem commend",
    },
    "manner": {
        -1.0: "stupid dumb moronic brainless clueless whiny snotty ridiculous pompous lame crappy",
        0.0: "recent latest lengthy long first second previous third current new private public",
        1.0: """thoughtful kind generous helpful gracious gentle considerate courteous patient wise sincere
            polite""",
    },
    "noise": {
        -1.0: "garbage nonsense crap drivel rubbish junk tripe gibberish baloney whining",
        0.0: "feedback information news text data commentary context writing coverage",
        1.0: "advice guidance kindness wisdom help generosity assistance encouragement counsel courtesy",
    },
    "closing": {
        -1.0: "whatever scram nope shush enough phooey",
        0.0: "bye later hello hi yes ok",
        1.0: "thanks blessings regards greetings apologies gratitude",
    },
}

TOPIC_CLASSES: dict[str, dict[str, str]] = {
    "thing": {
        "films": "film movie thriller drama comedy sequel remake documentary western cartoon",
        "food": "meal dish soup pizza burger salad curry stew sandwich steak",
        "books": "book novel memoir biography paperback anthology novella trilogy textbook diary",
        "hotels": "hotel suite hostel resort inn motel lodge cabin villa apartment",
        "music": "album song concert track record symphony opera anthem ballad duet",
        "gadgets": "phone laptop tablet camera printer router charger monitor headset drone",
    },
    "part": {
        "films": """plot acting script dialogue cinematography casting editing screenplay climax trailer
            montage""",
        "food": "sauce crust dessert seasoning gravy dressing broth topping garlic cheese bread filling",
        "books": """chapter prose narration preface binding vocabulary epilogue prologue glossary translation
            foreword""",
        "hotels": "lobby bed bathroom breakfast pool balcony elevator shower mattress housekeeping wallpaper",
        "music": "melody chorus rhythm bassline singing harmony tempo percussion guitar piano mixing",
        "gadgets": """battery screen software keyboard speaker touchscreen firmware display interface
            packaging warranty""",
    },
    "maker": {
        "films": "director actor actress producer screenwriter cameraman stuntman",
        "food": "chef waiter cook baker bartender waitress caterer",
        "books": "author writer novelist poet editor publisher illustrator",
        "hotels": "manager receptionist porter concierge maid doorman lifeguard",
        "music": "singer drummer guitarist conductor composer pianist violinist",
        "gadgets": "engineer technician designer programmer manufacturer developer inventor",
    },
    "place": {
        "films": "cinema theater studio multiplex festival screening",
        "food": "restaurant cafe diner kitchen bakery buffet",
        "books": "library bookshop classroom archive bookstore academy",
        "hotels": "reception terrace seafront courtyard sauna spa",
        "music": "arena stadium auditorium nightclub bandstand conservatory",
        "gadgets": "store showroom workshop warehouse outlet laboratory",
    },
    "used": {
        "films": "watched streamed rented viewed filmed projected",
        "food": "ate ordered tasted devoured cooked chewed",
        "books": "read skimmed reread studied browsed quoted",
        "hotels": "booked reserved visited occupied toured vacated",
        "music": "heard played hummed downloaded sang replayed",
        "gadgets": "bought charged installed unboxed repaired upgraded",
    },
    "style": {
        "films": "cinematic animated scripted dubbed subtitled silent",
        "food": "spicy roasted grilled fried salty creamy",
        "books": "literary illustrated fictional poetic historical hardcover",
        "hotels": "spacious furnished carpeted waterfront rural heated",
        "music": "acoustic orchestral melodic rhythmic choral instrumental",
        "gadgets": "wireless digital portable electronic waterproof rechargeable",
    },
    "bits": {
        "films": "scenes characters actors stunts costumes effects villains cameos",
        "food": "noodles fries vegetables dumplings pancakes portions mushrooms olives",
        "books": "chapters pages footnotes sentences paragraphs metaphors poems essays",
        "hotels": "rooms towels pillows beds corridors windows sheets curtains",
        "music": "songs lyrics tunes riffs drums solos chords violins",
        "gadgets": "buttons cables sensors wires icons menus adapters settings",
    },
}

NEUTRAL_CLASSES: dict[str, str] = {
    "kin": """sister brother mother father wife husband cousin uncle aunt daughter son nephew niece roommate
    partner
        grandmother coworker grandfather""",
    "day": "saturday sunday friday monday thursday tuesday wednesday",
    "period": "week month year summer winter spring autumn weekend night decade",
    "month": "january february march april may june july august september october november december",
    "think": "think guess suppose believe say imagine reckon",
    "but": "but and although though while yet",
    "number": "ten twenty six seven eight nine twelve thirty fifty forty",
    "city": "london paris chicago boston denver seattle dublin sydney toronto berlin",
    "color": "red blue green black white grey yellow silver brown purple",
    "when": "yesterday today recently finally twice once tonight lately",
    "source": "magazine newspaper website blog podcast brochure catalog forum newsletter leaflet",
    "rain": "rain snow sun wind dark cold",
    "money": "dollars euros pounds coins cents",
}
