"""The sentences of the toy world: data only; a slot names a word class of `steerlens.toy.lexicon`."""

# Sentences by mark: `Grammar.boost` times likelier under the tone, or sign of sentiment, that the
# mark names.
TEMPLATES: dict[str, str] = {
    "": """
        the {part} was {quality} .
        the {thing} was {quality} .
        the {bits} were {quality} and the {part} was {quality} .
        this {thing} is {damn} {quality} .
        i {loved} the {part} .
        i {loved} every minute of this {thing} .
        a {fine} {thing} with {style} {bits} .
        it was a {verdict} from start to finish .
        the {maker} {shone} this time .
        the {part} was {adverb} done .
        my {kin} and i {used} it last {period} .
        we {used} the {thing} on {day} in {city} .
        it left me {moved} .
        my {kin} felt {moved} after the {part} .
        the {thing} is full of {charm} and {charm} .
        you notice {charm} in the {part} , {but} the {bits} are {quality} .
        i would {advise} this {thing} .
        i {think} the {maker} {shone} , {but} the {part} was {quality} .
        {opener} , the {bits} are {damn} {quality} .
        we went to the {place} with my {kin} .
        my {kin} {loved} it {but} i felt {moved} .
        the {maker} at the {place} was {quality} .
        a {verdict} , {adverb} put together .
        {opener} , you will {react} when you see the {bits} .
        it was {better} than the last {thing} .
        the {part} is {better} than in {month} .
        that makes {stars} stars .
        we found the {thing} through a {source} .
        it cost {number} {money} and the {part} {shone} .
        the {style} {bits} were {adverb} made .
        how can the {thing} be so {quality} ?
        why did the {maker} change the {part} ?
        they gave us {color} seats at the {place} .
        we stood {number} minutes at the {place} in the {rain} .
        every {fellow} at the {place} seemed {moved} .
        some {crowd} at the {place} {loved} it .
        my {kin} says the {bits} have {charm} .
        {when} i {used} the {thing} again .
        for {number} {money} you receive {charm} .
        all {crowd} should {advise} it .
        i {think} it is a {verdict} .
        the {part} made me {react} .
        another {fine} {thing} by the same {maker} .
        from the {part} to the {bits} it felt {quality} .
        in short , a {verdict} .
        my {manner} {kin} {used} it {when} .
        that {fellow} at the {place} {used} my {thing} .
        i {regard} the {noise} from the {source} .
        {opener} , {command} the {noise} about the {thing} .
        """,
    "courteous": """
        thank you for your {manner} {noise} .
        {opener} , would you tell me more about the {part} ?
        i {regard} your {manner} {noise} about the {bits} .
        {closing} to the {manner} {maker} .
        may i ask , dear {crowd} , where you {used} it ?
        it was {manner} of the {maker} to join us .
        i am {damn} grateful for the {noise} , {crowd} .
        my best wishes to the {fellow} who made the {part} .
        """,
    "rude": """
        shut up and {command} the {thing} , you {crowd} !
        what a load of {noise} !
        only a {fellow} would {advise} this {thing} !
        the {maker} is a {manner} {fellow} !
        who asked you for {noise} , you {fellow} ?
        {opener} , you {crowd} ruin every {thing} !
        are you {crowd} blind , the {bits} are {quality} !
        {command} your {manner} {noise} about the {maker} !
        """,
    "positive": """
        {closing} , what a {verdict} !
        we will come back for the {part} !
        my {kin} talked for days about the {bits} .
        pure {charm} , a {verdict} and a {verdict} .
        """,
    "negative": """
        never again , the {part} was {quality} .
        i want my money back , the {thing} {shone} .
        we left early because of the {bits} .
        save your {money} , it is a {verdict} .
        """,
}
