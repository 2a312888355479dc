"""Function words of English, German, French, Spanish, Italian, Portuguese and Dutch, folded as terms are."""

# Function words say what a sentence is about in no collection, also where names are short and few have them.
STOP_WORDS = frozenset((
    "a", "aan", "about", "ai", "al", "all", "alla", "am", "an", "and", "any", "are", "as", "at", "au", "auf", "aus",
    "aux", "avec", "be", "bei", "bij", "bis", "but", "by", "can", "ce", "ces", "cette", "che", "chez", "chi", "com",
    "como", "con", "d", "da", "dal", "dalla", "dans", "das", "dat", "de", "degli", "dei", "del", "della", "delle", "dem",
    "den", "der", "des", "desde", "di", "did", "die", "do", "does", "dos", "du", "e", "een", "ein", "eine", "einem",
    "einen", "einer", "eines", "el", "ella", "elle", "em", "en", "es", "est", "esta", "este", "et", "for", "from", "fur",
    "gli", "ha", "had", "has", "have", "he", "her", "here", "het", "hij", "his", "how", "i", "if", "ik", "il", "im", "in",
    "into", "is", "ist", "it", "its", "l", "la", "las", "le", "les", "leur", "lo", "los", "mais", "mas", "me", "met",
    "mit", "muy", "my", "na", "naar", "nach", "nas", "nel", "nella", "niet", "no", "non", "nos", "not", "oder", "of",
    "off", "on", "ook", "op", "or", "os", "ou", "our", "out", "over", "par", "para", "pas", "pela", "pelo", "per", "pero",
    "por", "pour", "que", "qui", "sa", "sao", "se", "sem", "ses", "seu", "she", "sich", "sin", "sind", "so", "some",
    "son", "sono", "sont", "su", "sul", "sulla", "sur", "sus", "te", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "those", "to", "tra", "uit", "uma", "un", "una", "und", "une", "uno", "unos",
    "unter", "up", "us", "van", "very", "vom", "von", "voor", "vor", "was", "wat", "we", "were", "what", "when", "where",
    "which", "who", "whose", "why", "wie", "will", "with", "without", "y", "you", "your", "ze", "zijn", "zu", "zum", "zur",
))  # fmt: skip
