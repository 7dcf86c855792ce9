// Names that hide what a file is: a harmless extension before one that runs, and characters that turn the direction of writing.

rule Double_Extension
{
    meta:
        kind = "suspicious"
        about = "a name like invoice.pdf.exe, or invoice.pdf, many blanks, .exe"
    condition:
        // Whatever is shown as a blank or not at all: U+00A0, U+2800 (the blank of Braille), U+3164, U+200B and their like.
        filename matches /\.(pdf|docx?|docm|xlsx?|xlsm|pptx?|rtf|odt|txt|csv|jpe?g|png|gif|mp[34]|zip|html?)([ _.\t-]|\xc2[\xa0\xad]|\xe1\x85[\x9f\xa0]|\xe1\xa0\x8e|\xe2\x80[\x80-\x8f\xa8\xa9\xaf]|\xe2\x81[\x9f-\xa4]|\xe2\xa0\x80|\xe3(\x80\x80|\x85\xa4)|\xef(\xbb\xbf|\xbe\xa0)){0,200}\.(exe|scr|com|pif|cpl|msi|bat|cmd|ps1|vbs|vbe|js|jse|wsf|wsh|hta|lnk|jar|iso|img|vhdx?)([ .\t]|\xc2[\xa0\xad]|\xe1\x85[\x9f\xa0]|\xe1\xa0\x8e|\xe2\x80[\x80-\x8f\xa8\xa9\xaf]|\xe2\x81[\x9f-\xa4]|\xe2\xa0\x80|\xe3(\x80\x80|\x85\xa4)|\xef(\xbb\xbf|\xbe\xa0)){0,200}$/i
}

rule Name_Turned_Around
{
    meta:
        kind = "suspicious"
        about = "a name with U+202E, or of a program with U+202A to U+202D or U+2066 to U+2068: shown in another order than it is"
    condition:
        filename matches /\xe2\x80\xae/ or
        // Honest names have these around a part of them: Hebrew, Arabic, whatever macOS puts together.
        (filename matches /\xe2(\x80[\xaa-\xad]|\x81[\xa6-\xa8])/ and
         filename matches /\.(exe|scr|com|pif|cpl|msi|bat|cmd|ps1|vbs|vbe|js|jse|wsf|wsh|hta|lnk|jar|iso|img|vhdx?)[ .]{0,20}(\xe2(\x80[\xaa-\xae]|\x81[\xa6-\xa9]))*$/i)
}
