"""The tables behind `labels`: scripts, function words by language, codes of languages, terms by domain. Data only."""
# ruff: noqa: RUF001 (letters of other scripts are what this file is about)

# First and one past the last code point, and the language that alone uses the script, or its name in capitals where
# several languages share it.
SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x41, 0x5B, "LATIN"),
    (0x61, 0x7B, "LATIN"),
    (0xC0, 0x250, "LATIN"),
    (0x370, 0x400, "el"),
    (0x400, 0x530, "CYRILLIC"),
    (0x530, 0x590, "hy"),
    (0x590, 0x600, "he"),
    (0x600, 0x780, "ARABIC"),
    (0x900, 0x980, "DEVANAGARI"),
    (0x980, 0xA00, "bn"),
    (0xA00, 0xA80, "pa"),
    (0xA80, 0xB00, "gu"),
    (0xB00, 0xB80, "or"),
    (0xB80, 0xC00, "ta"),
    (0xC00, 0xC80, "te"),
    (0xC80, 0xD00, "kn"),
    (0xD00, 0xD80, "ml"),
    (0xD80, 0xE00, "si"),
    (0xE00, 0xE80, "th"),
    (0xE80, 0xF00, "lo"),
    (0xF00, 0x1000, "bo"),
    (0x1000, 0x10A0, "my"),
    (0x10A0, 0x1100, "ka"),
    (0x1100, 0x1200, "ko"),
    (0x1200, 0x13A0, "am"),
    (0x1780, 0x1800, "km"),
    (0x1E00, 0x1F00, "LATIN"),
    (0x1F00, 0x2000, "el"),
    (0x3040, 0x3100, "ja"),
    (0x3400, 0x4DC0, "zh"),
    (0x4E00, 0xA000, "zh"),
    (0xAC00, 0xD7B0, "ko"),
)

FUNCTION_WORDS: dict[str, str] = {
    "en": "the of and to in is that it for was with as his he be not by are this but have from they you which",
    "de": "der die das und ist nicht ein eine ich sie zu den mit auf für von dem wir auch sich es wie wird im oder",
    "fr": "le la les des et est une dans que qui pas pour sur vous je ce il elle nous du au avec sont droit ne se à",
    "es": "el los las una que y en es por con para no del se su al lo como más pero está tiene esto todo derecho",
    "it": "il di che è non per una sono gli della con si ho del nel alla questo anche mi lo ha individuo più ogni",
    "pt": "o os as um uma que não é em para com do da dos ele ela eu você está ao mais seu sua à são no na pelo",
    "nl": "de het een van en is niet ik dat op te zijn voor met hij ze aan er maar heeft wordt naar deze ieder dit",
    "af": "die en het nie is van in 'n ek hy sy vir om te dat wat ons hulle op met jy word deur aan",
    "sv": "och att det är som en på inte av för jag han med den till var ett har de om vi hon inom eller skall",
    "da": "og det er ikke at en jeg til af på har med som han den for de et var vi hun kan der ved enhver",
    "nb": "og det er ikke å en jeg til av på har med som han den for de et var vi hun kan fra ved enhver også",
    "is": "og að er ekki það ég í á við hann sem til hún um þetta var með eru þú hver skal af eða",
    "pl": "nie i w na się jest to z że do jak ale co był od są dla przez po tym jego każdy ma czy oraz",
    "cs": "je se na v že to a ne jsem s jako by do byl ale jsou pro si tak jeho má každý nebo být od",
    "sk": "je sa na v že to a nie som s ako by do bol ale sú pre si tak jeho má každý alebo byť od",
    "sl": "je se na v da in ne sem z kot bi do bil pa so za ki tako ima vsak ali biti od ni",
    "hr": "je se na u da i ne sam s kao bi do bio su za koji to ima svatko ili biti od nije ovo",
    "ro": "și în de la nu este un o că pe cu să mai din sunt a fost pentru care al lui se prin orice",
    "hu": "a az és nem hogy is egy van ez meg csak de már volt én mint el ha minden vagy joga azt kell",
    "fi": "ja on ei se hän että oli en minä mutta ole kun niin ovat tämä jokaisella sekä myös tai kuin olen olla",
    "et": "ja on ei see ta et oli ma ka aga kui mis ole need iga või tema selle igal õigus oma",
    "lv": "un ir ka nav to es viņš ar no par tas uz bija kas vai lai katram savu tā arī pie",
    "lt": "ir yra kad ne tai jis aš su iš į ar buvo kas bet kaip turi kiekvienas teisę arba savo jo",
    "tr": "bir ve bu da de için ne çok ben var mi ile o değil her gibi olarak veya kadar olan onun daha",
    "az": "bir və bu da də üçün nə çox mən var ilə o deyil hər kimi olan onun daha hüququ malikdir",
    "vi": "và của là có không được một cho người các trong với tôi này những đã để từ như quyền mọi cũng",
    "id": "yang dan di tidak ini itu dengan untuk dari dalam adalah saya akan pada setiap orang atau dia ada oleh",
    "tl": "ang ng sa na mga ay hindi si ko at siya ito ako niya may bawat tao para kung mo",
    "sw": "na ya wa ni kwa katika la za kila mtu au haki yake cha hii si kama ana kuwa hiyo",
    "ca": "el els les una que i en és per amb no del es als aquest com més però té dret tota la",
    "eu": "eta da ez du bat dute zen izan ere hori baina nire dira duen edo eskubidea egin bere",
    "eo": "la kaj de mi estas ne en al ke li kiu por sur ĉi tio kun ĝi ŝi ni vi ĉiu havas rajton",
    "la": "et in est non ad ut cum quod sed ex qui quae esse hoc per si autem enim sunt nec",
    "sq": "dhe të në një është nuk për me që ka nga si por janë ai unë kjo çdo njeri",
    "ga": "agus an na is ar ní tá go sé sin le ag seo bhí do gach ach nach mé",
    "cy": "yn y mae ac i ar o nid ei a'r gan wedi hawl bob pawb oedd hynny neu ond",
    "ru": "и в не на что я он с как это по но они мы ты она все был его у так же каждый право или человек",
    "uk": "і в не на що я він з як це та але вони ми ти вона всі був його у так же кожна має або є",
    "bg": "и в не на че аз той с как това по но те ние ти тя всички беше го се за е има право да са",
    "sr": "и у не на да ја он са као то по али они ми ти она све је био се за има право или су",
    "mk": "и во не на дека јас тој со како тоа по но тие ние ти таа сите беше се за има право да е од",
    "be": "і ў не на што я ён з як гэта па але яны мы ты яна ўсе быў яго кожны мае права або",
    "ar": "في من على أن لا هذا إلى ما هو كان مع هي كل عن لم التي الذي أو أنا شخص حق لكل",
    "fa": "و در به از که این را با است آن برای من هر نیست بود او یک حق دارد می کس تا",
    "ur": "کے میں ہے اور کی کا سے کو نہیں یہ کہ ہیں پر ہر ایک نے شخص حق بھی وہ اس",
    "hi": "के है में की का और से को नहीं यह है कि हैं पर एक ने भी वह मैं इस अधिकार प्रत्येक",
    "mr": "आहे आणि या च्या तो ती मी हे नाही ते आहेत एक का तर प्रत्येक अधिकार होता ला",
    "ne": "छ र को मा हो ले छैन यो हरेक लाई भने पनि थियो छन् अधिकार व्यक्ति गर्न",
}

DOMAIN_TERMS: dict[str, str] = {
    "technology": (
        "command server file files directory python rust compiler syntax module package variable parameter string "
        "default interface memory thread cargo git linux windows kernel network browser database json api http "
        "implementation library iterator struct boolean integer runtime cli container cluster"
    ),
    "science": (
        "energy cell cells species molecule protein atom electron quantum experiment hypothesis temperature velocity "
        "chemical physics biology evolution gravity organism acid galaxy planet climate gene neural voltage"
    ),
    "mathematics": (
        "theorem proof equation polynomial integer matrix vector derivative integral triangle probability algebra "
        "geometry lemma prime sum divisor fraction angle"
    ),
    "law": (
        "article rights law freedom constitution court tribunal treaty clause plaintiff statute legislation charter "
        "derecho droit recht diritto direito everyone nationality"
    ),
    "government": (
        "congress president nation nations government citizens war peace economy federal senate people american "
        "america budget states minister parliament election policy"
    ),
    "medicine": (
        "patient patients disease clinical therapy symptoms treatment infection diagnosis dose surgery vaccine cancer "
        "blood hospital"
    ),
    "business": "market company customers revenue price shares investors profit sales brand management startup finance",
    "literature": "thou thee thy lord hath doth king duke sir madam love heart scene act poem sonnet chapter",
}

# Three-letter codes of languages and their two-letter ones.
ISO_639 = (
    "eng:en deu:de ger:de fra:fr fre:fr spa:es ita:it por:pt nld:nl dut:nl rus:ru ukr:uk bul:bg srp:sr mkd:mk bel:be "
    "pol:pl ces:cs cze:cs slk:sk slv:sl hrv:hr ron:ro hun:hu fin:fi est:et lav:lv lvs:lv lit:lt swe:sv dan:da nob:nb "
    "nno:nn isl:is tur:tr aze:az azj:az vie:vi ind:id msa:ms tgl:tl swh:sw swa:sw cat:ca glg:gl eus:eu ell:el heb:he "
    "arb:ar ara:ar pes:fa fas:fa urd:ur hin:hi ben:bn tam:ta tel:te kan:kn mal:ml mar:mr guj:gu pan:pa sin:si tha:th "
    "lao:lo khm:km mya:my kat:ka hye:hy amh:am cmn:zh zho:zh jpn:ja kor:ko epo:eo lat:la afr:af sqi:sq als:sq gle:ga "
    "cym:cy npi:ne"
)
